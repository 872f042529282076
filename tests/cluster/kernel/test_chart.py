"""Real Helm and real Kustomize print the same objects, and a real API server takes what Helm installs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.kubernetes import builder, recipes
from lab.kubernetes.api_server import ApiServer

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.cross_section, pytest.mark.timeout(1800)]

CHECKOUT = Path(__file__).parents[3]
CHART = CHECKOUT / "charts" / "egress-router"
EGRESS_IPS = CHECKOUT / "deploy" / "egress-ips"
#: The networks and the interface that stand in the base.
VALUES = {"clusterNetworks": ["10.128.0.0/14", "172.30.0.0/16", "192.0.2.0/24"], "interface": "eth0"}
Objects = dict[tuple[str, str, str], dict[str, Any]]
Helm = Callable[..., str]


def objects(text: str) -> Objects:
    found: Objects = {}
    for item in yaml.safe_load_all(text):
        if item is not None:
            metadata = item["metadata"]
            identity = (item["kind"], metadata.get("namespace", ""), metadata["name"])
            assert identity not in found
            found[identity] = item
    return found


def in_order(value: Any) -> Any:
    """Variables, volumes and mounts by name: Kustomize puts those of a component before the others."""
    if isinstance(value, dict):
        return {
            key: sorted(part, key=lambda one: str(one["name"])) if has_names(key, part) else in_order(part)
            for key, part in value.items()
        }
    return [in_order(part) for part in value] if isinstance(value, list) else value


def has_names(key: str, part: Any) -> bool:
    """Volumes of security context constraints are kinds, which are words."""
    return key in {"env", "volumes", "volumeMounts"} and all(isinstance(one, dict) for one in part)


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    """Built once and kept; half a minute of processor time where Go's own cache is empty of them."""
    return builder.ensure([recipes.kustomize(), recipes.helm()], lambda line: print(line, flush=True))


@pytest.fixture
def helm(programs: dict[str, Path], tmp_path: Path) -> Helm:
    homes = {name: str(tmp_path / name) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}

    def call(*words: str, values: dict[str, Any] | None = None, fails: bool = False) -> str:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(VALUES if values is None else values))
        command = [str(programs["helm"]), *words, *(() if words[0] == "uninstall" else ("-f", str(file)))]
        done = subprocess.run(
            command, env={**os.environ, **homes}, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return call


@pytest.fixture
def template(helm: Helm) -> Callable[..., Objects]:
    def rendered(**values: Any) -> Objects:
        return objects(
            helm(
                "template",
                "egress-router",
                str(CHART),
                "-n",
                "egress-router",
                "--include-crds",
                values={**VALUES, **values},
            )
        )

    return rendered


@pytest.fixture
def kustomized(programs: dict[str, Path]) -> Callable[[Path], Objects]:
    def built(folder: Path) -> Objects:
        done = subprocess.run(
            [programs["kustomize"], "build", folder], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        found = objects(done.stdout)
        # Helm makes the namespace, or whoever installs.
        found.pop(("Namespace", "", "egress-router"))
        # Kustomize 5.8 takes these for objects of a namespace; the server heeds no namespace of theirs.
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
            item = found.pop((kind, "egress-router", "egress-router-node"))
            del item["metadata"]["namespace"]
            found[kind, "", "egress-router-node"] = item
        return found

    return built


@pytest.mark.parametrize(
    ("folder", "values"),
    [
        ("", {}),
        ("overlays/openshift", {"openshift": {"securityContextConstraints": True}}),
        ("overlays/guard", {"drainGuard": {"enabled": True}}),
        ("overlays/nri", {"nri": {"enabled": True}}),
        ("overlays/monitoring", {"monitoring": {"podMonitor": True}}),
        ("overlays/signatures", {"agentKeys": {"secret": "egress-router-agent-keys"}}),
        (
            "all",
            {
                "agentKeys": {"secret": "egress-router-agent-keys"},
                "drainGuard": {"enabled": True},
                "nri": {"enabled": True},
                "monitoring": {"podMonitor": True},
                "openshift": {"securityContextConstraints": True},
            },
        ),
    ],
)
def test_both_print_the_same(
    template: Callable[..., Objects],
    kustomized: Callable[[Path], Objects],
    folder: str,
    values: dict[str, Any],
    tmp_path: Path,
) -> None:
    where = EGRESS_IPS / folder
    if folder == "all":
        # As somebody writes it who wants everything.
        where = tmp_path / "own"
        where.mkdir()
        named = {
            "resources": [os.path.relpath(EGRESS_IPS / "base", where)],
            "components": [os.path.relpath(path, where) for path in sorted((EGRESS_IPS / "components").iterdir())],
        }
        (where / "kustomization.yaml").write_text(yaml.safe_dump(named))
    ours, theirs = template(**values), kustomized(where)
    assert ours.keys() == theirs.keys()
    for identity, item in theirs.items():
        assert in_order(ours[identity]) == in_order(item), identity


def test_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize(
    ("values", "blamed"),
    [
        ({}, "clusterNetworks"),
        ({**VALUES, "clusterNetworks": []}, "clusterNetworks"),
        ({**VALUES, "clusterNetworks": ["10.0.0.0"]}, "clusterNetworks"),
        ({**VALUES, "interface": ""}, "interface"),
        ({**VALUES, "controller": {"replicas": 0}}, "replicas"),
        ({**VALUES, "agent": {"resource": {}}}, "resource"),
        ({**VALUES, "images": {}}, "images"),
    ],
)
def test_wrong_values_are_refused(helm: Helm, values: dict[str, Any], blamed: str) -> None:
    assert blamed in helm("template", "egress-router", str(CHART), values=values, fails=True)


def test_every_value_gets_where_it_belongs(template: Callable[..., Objects]) -> None:
    found = template(
        witnesses=["192.0.2.1", "192.0.2.2"],
        apiServer="https://192.0.2.10:6443",
        image={
            "repository": "registry.example.com/node",
            "tag": "7",
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "key"}],
        },
        agent={
            "env": [{"name": "EGRESS_LOG_LEVEL", "value": "debug"}],
            "nodeSelector": {"a": "b"},
            "tolerations": [],
            "resources": {"limits": {"memory": "1Gi"}},
        },
        controller={"replicas": 3, "env": [{"name": "X", "value": "y"}], "nodeSelector": {"c": "d"}},
    )
    settings = found["ConfigMap", "egress-router", "egress-ips"]["data"]
    assert settings == {
        "cluster-networks": ",".join(VALUES["clusterNetworks"]),
        "interface": "eth0",
        "witnesses": "192.0.2.1,192.0.2.2",
    }
    agent = found["DaemonSet", "egress-router", "egress-router-node"]["spec"]["template"]["spec"]
    controller = found["Deployment", "egress-router", "egress-router-controller"]["spec"]
    for pod, extra in ((agent, "EGRESS_LOG_LEVEL"), (controller["template"]["spec"], "X")):
        (container,) = pod["containers"]
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert {"EGRESS_API_SERVER": "https://192.0.2.10:6443"}.items() <= env.items()
        assert extra in env
        assert (container["image"], container["imagePullPolicy"]) == ("registry.example.com/node:7", "Always")
        assert pod["imagePullSecrets"] == [{"name": "key"}]
    assert (agent["nodeSelector"], agent["tolerations"]) == ({"a": "b", "kubernetes.io/os": "linux"}, [])
    assert agent["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}
    assert controller["replicas"] == 3


def test_another_namespace_is_everywhere(helm: Helm) -> None:
    """No name of the base's namespace is left: rights would be given to somebody else's accounts."""
    text = helm(
        "template", "egress-router", str(CHART), "-n", "elsewhere", "--set", "openshift.securityContextConstraints=true"
    )
    assert "serviceaccount:egress-router:" not in text
    assert "namespace: egress-router" not in text
    assert text.count("system:serviceaccount:elsewhere:") == 3


def test_a_real_server_takes_an_installation_an_upgrade_and_its_end(api_server: ApiServer, helm: Helm) -> None:
    cluster = ("--kubeconfig", str(api_server.kubeconfig), "-n", "egress-router")
    api_server.kubectl("create", "namespace", "egress-router")
    helm("install", "egress-router", str(CHART), *cluster)
    api_server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    listed = api_server.kubectl("get", "egressips,egressnodes,egressipassignments", "--ignore-not-found")
    assert listed.strip() in ("", "No resources found")
    helm("upgrade", "egress-router", str(CHART), *cluster, "--set", "controller.replicas=3")
    replicas = (
        "get",
        "deployment",
        "egress-router-controller",
        "-n",
        "egress-router",
        "-o",
        "jsonpath={.spec.replicas}",
    )
    assert api_server.kubectl(*replicas) == "3"
    api_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    helm("uninstall", "egress-router", *cluster)
    left = api_server.kubectl(
        "get", "daemonsets,deployments,configmaps,clusterroles,validatingadmissionpolicies", "-A", "-o", "name"
    )
    assert "egress" not in left
    # On purpose: with them every EgressIP would go.
    assert "egressips.egress-router.io" in api_server.kubectl("get", "crd", "-o", "name")
