"""One folder a case: ``args`` and ``destinations`` of `egress-router manifests`; ``manifests.yaml`` or ``error``, and
``warnings`` where there are some.

After a change of a template, ``pytest --golden-update`` writes the files anew.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import latest_version, validate

from egress_router.cli.main import run
from egress_router.config.inputs import Problems, SourceText
from egress_router.errors import ConfigurationError
from egress_router.manifests.containers import manifest_pods
from egress_router.manifests.judge import judge_pods
from egress_router.manifests.objects import read_objects
from egress_router.manifests.pod import parse_manifest_pod
from tests.support.golden import updating

CASES = sorted(path for path in (Path(__file__).parent / "manifests").iterdir() if path.is_dir())
GOOD = [case for case in CASES if not case.name.startswith("refused-")]
#: Resources that the cluster's operators define, for which kubernetes-validate has no schema.
CUSTOM = {"SecurityContextConstraints", "NetworkAttachmentDefinition", "ServiceMonitor"}

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
good = pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)


@by_name
def test_case(case: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    try:
        assert run(["manifests", *shlex.split((case / "args").read_text()), "--destinations", "destinations"]) == 0
        printed = capsys.readouterr()
        found = {"manifests.yaml": printed.out, "warnings": printed.err}
    except ConfigurationError as error:
        found = {"error": f"{error}\n"}
    found = {name: text for name, text in found.items() if text}
    if updating():
        for name, text in found.items():
            (case / name).write_text(text)
    assert {path.name for path in case.iterdir()} == {"args", "destinations", *found}
    for name, text in found.items():
        assert (case / name).read_text() == text
    assert ("error" in found) == case.name.startswith("refused-")


def documents(case: Path) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all((case / "manifests.yaml").read_text()) if item]


@good
@pytest.mark.parametrize("version", ["1.25", latest_version()])
def test_kubernetes_takes_it(case: Path, version: str) -> None:
    checked = 0
    for item in documents(case):
        if item["kind"] not in CUSTOM:
            validate(item, version, strict=True)
            checked += 1
    assert checked >= 5


def test_the_validation_finds_mistakes() -> None:
    item = next(item for item in documents(GOOD[0]) if item["kind"] == "Service")
    item["spec"]["portz"] = []
    with pytest.raises(Exception, match="portz"):
        validate(item, latest_version(), strict=True)


@good
def test_check_accepts_what_was_written(case: Path) -> None:
    problems = Problems()
    objects = read_objects([SourceText("manifests.yaml", (case / "manifests.yaml").read_text())], problems)
    pods = manifest_pods(objects, problems)
    judge_pods(pods, objects, problems)
    text = (case / "destinations").read_text()
    for pod in pods:
        parsed = parse_manifest_pod(pod, problems)
        assert parsed.router is not None
        assert parsed.router.mode.redirects == ("redirect" in case.name)
        assert parsed.router.mode.redirects or parsed.http or parsed.dns
        for container in pod.ours:
            for source in container.files.values():
                assert [line.split() for line in str(getattr(source, "text", "")).split("\n")] == [
                    line.split() for line in text.split("\n")
                ]
    # A Secret is never in the same file.
    assert {one.variable for one in problems.warnings} <= {"EGRESS_HTTP_PROXY_PARENT_FILE"}
    assert not problems.errors
    wanted = 2 if is_pair(case) else shlex.split((case / "args").read_text()).count("--source")
    assert len(pods) == wanted


@good
def test_no_two_pods_hold_one_address(case: Path) -> None:
    workloads = [item for item in documents(case) if item["kind"] in ("Deployment", "ReplicationController")]
    sources = set()
    for item in workloads:
        assert item["spec"]["replicas"] == 1
        if item["kind"] == "Deployment":
            strategy = item["spec"]["strategy"]
            if strategy["type"] == "Recreate":
                assert strategy == {"type": "Recreate"}
            else:
                # The old one is told to leave at once, and the new one waits for the address.
                assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 1}
                assert len(workloads) == 1
                assert "--parent-interface" in (case / "args").read_text()
        spec = item["spec"]["template"]["spec"]
        # `init` refuses names.
        assert ("initContainers" in spec) == (case.name != "redirect-names")
        first = [*spec.get("initContainers", ()), *spec["containers"]][0]
        sources.add(next(value["value"] for value in first["env"] if value["name"] == "EGRESS_SOURCE"))
    assert len(sources) == (1 if is_pair(case) else len(workloads))


@good
def test_the_routers_of_a_pair_agree_on_who_has_the_address(case: Path) -> None:
    """The init container leaves the address alone, a container that stays takes it, and both pods are on two nodes."""
    items = documents(case)
    for item in items:
        if item["kind"] not in ("Deployment", "ReplicationController"):
            continue
        spec = item["spec"]["template"]["spec"]
        numbers = {
            container["name"]: value["value"]
            for container in [*spec.get("initContainers", ()), *spec["containers"]]
            for value in container["env"]
            if value["name"] == "EGRESS_PAIR"
        }
        if not is_pair(case):
            assert not numbers
            continue
        (number,) = set(numbers.values())
        assert f"--pair {number}" in (case / "args").read_text()
        staying = "router" if "redirect" in case.name else "pair"
        assert numbers.keys() == {"init", staying}
        (container,) = (one for one in spec["containers"] if one["name"] == staying)
        assert container["command"] == ["egress-router", "run"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
        # keepalived's files.
        assert "/run/egress-router" in {mount["mountPath"] for mount in container["volumeMounts"]}
        (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
    if is_pair(case):
        (peers,) = (item for item in items if item["kind"] == "Service" and item["metadata"]["name"].endswith("-peers"))
        assert peers["spec"]["publishNotReadyAddresses"] is True


def is_pair(case: Path) -> bool:
    return "--pair" in (case / "args").read_text()


@good
def test_names_fit_together(case: Path) -> None:
    """Selectors select, references name what is there, and the CNI configuration is JSON."""
    items = documents(case)
    named = {(item["kind"], item["metadata"]["name"]) for item in items}
    assert len(named) == len(items)
    services = [item for item in items if item["kind"] == "Service"]
    assert len(services) == (2 if is_pair(case) else 1)
    (account,) = (item for item in items if item["kind"] == "ServiceAccount")
    for item in items:
        if item["kind"] not in ("Deployment", "ReplicationController"):
            continue
        template = item["spec"]["template"]
        labels = template["metadata"]["labels"].items()
        selector = item["spec"]["selector"]
        assert (selector.get("matchLabels") or selector).items() <= labels
        for service in services:
            assert service["spec"]["selector"].items() <= labels
        assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
        config_map = template["spec"]["volumes"][0]["configMap"]["name"]
        assert ("ConfigMap", config_map) in named
        network = template["metadata"]["annotations"].get("k8s.v1.cni.cncf.io/networks")
        if network and ("NetworkAttachmentDefinition", json.loads(network)[0]["name"]) not in named:
            assert "--network" in (case / "args").read_text()
    for item in items:
        if item["kind"] == "NetworkAttachmentDefinition":
            assert json.loads(item["spec"]["config"])["plugins"][0]["type"] == "macvlan"
        if item["kind"] == "SecurityContextConstraints":
            user = f"system:serviceaccount:{account['metadata']['namespace']}:{account['metadata']['name']}"
            assert item["users"] == [user]


def test_every_component_and_platform_is_there() -> None:
    seen = {
        (words[0], words[words.index("--platform") + 1])
        for words in (shlex.split((case / "args").read_text()) for case in GOOD)
    }
    assert {component for component, _ in seen} == {"redirect", "http-proxy", "dns-proxy", "tls-proxy"}
    assert {platform for _, platform in seen} == {"openshift", "kubernetes"}
