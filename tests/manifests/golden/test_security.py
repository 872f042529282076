"""What each container that we write, or that stands in deploy/, gives up: capabilities, new privileges, syscalls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).parent / "manifests"
DEPLOY = Path(__file__).parents[3] / "deploy"
FILES = sorted(
    [*GOLDEN.glob("*/manifests.yaml"), *(path for path in DEPLOY.rglob("*.yaml") if "\nkind: " in path.read_text())]
)


#: OpenShift SDN gives its macvlan only to pods with a privileged container: `init`, which ends before the others start.
SDN = "pod.network.openshift.io/assign-macvlan"


def pods(value: object) -> Iterator[dict[str, Any]]:
    """Yield the templates of all pods in an object, whatever makes them."""
    if isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("containers"), list) and spec["containers"]:
            yield value
        for item in value.values():
            yield from pods(item)
    elif isinstance(value, list):
        for item in value:
            yield from pods(item)


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def problems(pod: dict[str, Any]) -> list[str]:
    found = []
    whole = pod["spec"].get("securityContext", {})
    sdn = SDN in pod["metadata"].get("annotations", {})
    for container in containers(pod):
        context = container.get("securityContext", {})
        name = container["name"]
        if sdn and container in pod["spec"].get("initContainers", ()) and context.get("privileged"):
            continue
        if context.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name} may gain privileges")
        if context.get("seccompProfile", whole.get("seccompProfile")) != {"type": "RuntimeDefault"}:
            found.append(f"{name} has no seccomp profile")
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{name} keeps capabilities")
        if context.get("privileged"):
            found.append(f"{name} is privileged")
    return found


def in_file(path: Path) -> list[dict[str, Any]]:
    return [pod for document in yaml.safe_load_all(path.read_text()) for pod in pods(document)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_container_keeps_what_it_does_not_need(path: Path) -> None:
    for pod in in_file(path):
        assert problems(pod) == []


def test_all_components_are_there() -> None:
    found = [container for path in FILES for pod in in_file(path) for container in containers(pod)]
    images = {str(container["image"]).rpartition("/")[2].partition(":")[0] for container in found}
    assert images == {"egress-router-init", "egress-router-proxy", "egress-router-dns", "egress-router-node"}
    words = {word for container in found for word in [*container.get("command", ()), *container.get("args", ())]}
    assert words >= {"run", "node", "controller", "uninstall"}


def test_the_rule_finds_what_is_left_out() -> None:
    (pod, *_) = in_file(GOLDEN / "http-proxy-openshift/manifests.yaml")
    assert problems(pod) == []
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    name = pod["spec"]["containers"][0]["name"]
    assert problems(pod) == [
        f"{name} may gain privileges",
        f"{name} has no seccomp profile",
        f"{name} keeps capabilities",
        f"{name} is privileged",
    ]
    del pod["metadata"]["annotations"][SDN]
    assert "init is privileged" in problems(pod)
