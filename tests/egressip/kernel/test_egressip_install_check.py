"""`egressip install --check` on a real API server, with the objects that container networks and others make.

DaemonSets, ConfigMaps and annotations are written from the manifests and the documentation of each project; their
custom resources have any contents here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router.cli.main import guarded, run
from lab.kubernetes.api_client import wait_until
from lab.kubernetes.api_server import ApiServer
from tests.support.kubernetes import VERSIONS, custom_definition

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("api_server"),
    pytest.mark.parametrize("api_server", VERSIONS, indirect=True),
]
SYSTEM = "kube-system"
#: Group, version, kind, plural, scope.
CUSTOM = [
    ("crd.projectcalico.org", "v1", "FelixConfiguration", "felixconfigurations", "Cluster"),
    ("crd.projectcalico.org", "v1", "IPPool", "ippools", "Cluster"),
    ("operator.tigera.io", "v1", "Installation", "installations", "Cluster"),
    ("k8s.ovn.org", "v1", "EgressIP", "egressips", "Cluster"),
    ("crd.antrea.io", "v1beta1", "Egress", "egresses", "Cluster"),
    ("metallb.io", "v1beta1", "IPAddressPool", "ipaddresspools", "Namespaced"),
]


def daemon_set(
    name: str, image: str, config_map: str = "", namespace: str = SYSTEM, **container: Any
) -> dict[str, Any]:
    labels = {"k8s-app": name}
    volumes = [{"name": "config", "configMap": {"name": config_map}}] if config_map else []
    spec = {"hostNetwork": True, "containers": [{"name": name, "image": image, **container}], "volumes": volumes}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


def config(name: str, **data: str) -> dict[str, Any]:
    data = {key.replace("_", "-"): value for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": SYSTEM}, "data": data}


def cluster_object(group_version: str, kind: str, name: str, namespace: str = "", **rest: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": group_version, "kind": kind, "metadata": metadata, **rest}


PROXY = daemon_set("kube-proxy", "registry.k8s.io/kube-proxy:v1.37.2", "kube-proxy")
PROXY_CONFIG = config("kube-proxy", **{"config.conf": "kind: KubeProxyConfiguration\nmode: nftables\n"})
CALICO = daemon_set(
    "calico-node", "quay.io/calico/node:v3.32.1", env=[{"name": "CALICO_IPV4POOL_CIDR", "value": "10.244.0.0/16"}]
)
FLANNEL_CONFIG = config(
    "kube-flannel-cfg", **{"net-conf.json": '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'}
)
FLANNEL = daemon_set("kube-flannel-ds", "ghcr.io/flannel-io/flannel:v0.28.1", "kube-flannel-cfg")


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    """Two nodes, kube-proxy, and the custom resources."""
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"node-{number}", "labels": {"egress-router.io/egress-assignable": ""}},
            "spec": {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24"]},
        }
        for number in (1, 2)
    ]
    items = [*(custom_definition(*one) for one in CUSTOM), *nodes, PROXY, PROXY_CONFIG]
    api_server.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(items))
    api_server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    info = dict.fromkeys(
        ("bootID", "machineID", "systemUUID", "containerRuntimeVersion", "kubeProxyVersion", "osImage"), "x"
    )
    for number in (1, 2):
        status = {
            "addresses": [{"type": "InternalIP", "address": f"192.0.2.1{number}"}],
            "nodeInfo": {
                **info,
                "kernelVersion": "6.12.41",
                "kubeletVersion": "v1.37.2",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }
        patch = json.dumps({"status": status})
        api_server.kubectl("patch", "node", f"node-{number}", "--subresource=status", "--type=merge", "-p", patch)
    return api_server


@contextmanager
def there(server: ApiServer, *items: dict[str, Any]) -> Iterator[None]:
    """Have these objects in the cluster."""
    text = yaml.safe_dump_all(items)
    server.kubectl("apply", "-f", "-", input=text)
    try:
        yield
    finally:
        server.kubectl("delete", "--wait=false", "-f", "-", input=text)


@pytest.fixture
def check(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def ask(*options: str, kubeconfig: Path | None = None) -> tuple[int, dict[str, Any]]:
        words = ["egressip", "install", "--check", "--kubeconfig", str(kubeconfig or server.kubeconfig), *options]
        capsys.readouterr()
        code = guarded(lambda: run([*words, "-o", "json"]))
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else {"error": printed.err}

    return ask


def network(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["level"], one["found"]) for one in answer["checks"] if one["check"] == "container network"]


FITTING = [
    ([FLANNEL, FLANNEL_CONFIG], "Flannel 0.28.1 (vxlan)"),
    ([CALICO], "Calico 3.32.1 with iptables or nftables"),
    (
        [
            CALICO,
            cluster_object(
                "operator.tigera.io/v1",
                "Installation",
                "default",
                spec={"calicoNetwork": {"linuxDataplane": "Nftables"}},
            ),
        ],
        "Calico 3.32.1 with nftables",
    ),
    ([daemon_set("kube-router", "docker.io/cloudnativelabs/kube-router:v2.1.0")], "kube-router 2.1.0"),
]


@pytest.mark.parametrize(("items", "found"), FITTING, ids=[found for _, found in FITTING])
def test_networks_that_pass_by_netfilter_fit(
    server: ApiServer, check: Callable[..., Any], items: list[dict[str, Any]], found: str
) -> None:
    with there(server, *items):
        code, answer = check()
    assert network(answer) == [("ok", found)]
    assert (code, answer["fits"]) == (0, True)
    levels = {one["check"]: one["level"] for one in answer["checks"]}
    assert levels["server"] == levels["holders"] == levels["kernels"] == levels["ports"] == levels["kube-proxy"] == "ok"
    assert answer["notLookedAt"] == {}


def bpf(**spec: Any) -> dict[str, Any]:
    return cluster_object("crd.projectcalico.org/v1", "FelixConfiguration", "default", spec=spec)


REFUSED = {
    "Cilium": (
        [
            daemon_set("cilium", "quay.io/cilium/cilium:v1.18.2", "cilium-config"),
            config("cilium-config", enable_bpf_masquerade="true"),
        ],
        "CiliumEgressGatewayPolicy",
    ),
    "OVN-Kubernetes": (
        [daemon_set("ovnkube-node", "quay.io/openshift/ovn:4.20")],
        "its own EgressIP",
    ),
    "Kube-OVN": ([daemon_set("kube-ovn-cni", "docker.io/kubeovn/kube-ovn:v1.14.4")], "VpcEgressGateway"),
    "Calico": ([CALICO, bpf(bpfEnabled=True)], "linuxDataplane"),
    "Calico by its operator": (
        [
            CALICO,
            cluster_object(
                "operator.tigera.io/v1",
                "Installation",
                "default",
                spec={"calicoNetwork": {}},
                status={"computed": {"calicoNetwork": {"linuxDataplane": "BPF"}}},
            ),
        ],
        "linuxDataplane",
    ),
    "Calico by a variable": (
        [daemon_set("calico-node", "quay.io/calico/node:v3.30.0", env=[{"name": "FELIX_BPFENABLED", "value": "true"}])],
        "linuxDataplane",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_paths_past_netfilter_are_refused_with_what_to_use(
    server: ApiServer, check: Callable[..., Any], name: str
) -> None:
    items, instead = REFUSED[name]
    with there(server, *items):
        code, answer = check()
    ((level, found),) = network(answer)
    assert level == "refused"
    assert found.startswith(name.partition(" by ")[0])
    advice = next(one["advice"] for one in answer["checks"] if one["check"] == "container network")
    assert instead in advice
    assert (code, answer["fits"]) == (69, False)


def test_cilium_by_the_hosts_stack_is_no_refusal(server: ApiServer, check: Callable[..., Any]) -> None:
    settings = config("cilium-config", enable_bpf_masquerade="false", enable_host_legacy_routing="true")
    with there(server, daemon_set("cilium", "quay.io/cilium/cilium:v1.18.2", "cilium-config"), settings):
        code, answer = check()
    assert network(answer)[0][0] == "warning"
    assert code == 0


def test_a_network_that_runs_nowhere_and_annotations_of_a_former_one(
    server: ApiServer, check: Callable[..., Any]
) -> None:
    former = daemon_set("cilium", "quay.io/cilium/cilium:v1.18.2")
    with there(server, former, FLANNEL, FLANNEL_CONFIG):
        server.kubectl("annotate", "node", "node-1", "network.cilium.io/ipv4-pod-cidr=10.0.0.0/24")
        status = json.dumps({"status": {"observedGeneration": 1, "desiredNumberScheduled": 0}})
        patch = ("patch", "daemonset", "cilium", "-n", SYSTEM, "--subresource=status", "--type=merge", "-p", status)
        server.kubectl(*patch)
        try:
            _, answer = check()
            assert network(answer) == [("ok", "Flannel 0.28.1 (vxlan)")]
        finally:
            server.kubectl("annotate", "node", "node-1", "network.cilium.io/ipv4-pod-cidr-")
    # K3s: Flannel inside of it, which annotations alone tell.
    server.kubectl("annotate", "node", "node-1", "flannel.alpha.coreos.com/backend-type=vxlan")
    try:
        _, answer = check()
        assert network(answer) == [("ok", "Flannel (vxlan)")]
    finally:
        server.kubectl("annotate", "node", "node-1", "flannel.alpha.coreos.com/backend-type-")
    _, answer = check()
    assert network(answer) == [("warning", "none that is known here")]


def test_others_that_have_an_address(server: ApiServer, check: Callable[..., Any], tmp_path: Path) -> None:
    wanted = tmp_path / "egressips.yaml"
    wanted.write_text("kind: EgressIP\nmetadata: {name: shop}\nspec: {egressIPs: [192.0.2.45, 192.0.2.60]}\n")
    ovn = cluster_object("k8s.ovn.org/v1", "EgressIP", "old", spec={"egressIPs": ["192.0.2.45"]})
    pool = cluster_object(
        "metallb.io/v1beta1", "IPAddressPool", "pool", "default", spec={"addresses": ["192.0.2.50-192.0.2.70"]}
    )
    with there(server, FLANNEL, FLANNEL_CONFIG):
        assert check("-f", str(wanted))[0] == 0
        with there(server, ovn, pool):
            code, answer = check("-f", str(wanted))
    claims = [one["found"] for one in answer["checks"] if one["check"] == "addresses"]
    assert claims == [
        "192.0.2.45 is claimed: EgressIP of OVN-Kubernetes old",
        "192.0.2.60 is claimed: IPAddressPool of MetalLB default/pool gives it",
    ]
    assert any("1 of EgressIP of OVN-Kubernetes: old" in one["found"] for one in answer["checks"])
    assert code == 69
    own = tmp_path / "own.yaml"
    own.write_text("kind: EgressIP\nmetadata: {name: shop}\nspec: {egressIPs: [192.0.2.11]}\n")
    code, answer = check("-f", str(own))
    assert code == 69
    assert "192.0.2.11 is claimed: it is node node-1's own" in [one["found"] for one in answer["checks"]]


def test_ports_that_are_taken(server: ApiServer, check: Callable[..., Any]) -> None:
    exporter = daemon_set("exporter", "example.com/exporter:1", ports=[{"containerPort": 9910, "hostPort": 9910}])
    conf = config(
        "kube-flannel-cfg",
        **{"net-conf.json": '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "Port": 14790}}'},
    )
    with there(server, FLANNEL, conf, exporter):
        code, answer = check()
    assert sorted(one["found"] for one in answer["checks"] if one["check"] == "ports") == [
        "TCP 9910 on the nodes is taken by DaemonSet kube-system/exporter",
        "UDP 14790 on the nodes is taken by Flannel's VXLAN",
    ]
    assert code == 69


def test_networks_that_the_settings_lack(server: ApiServer, check: Callable[..., Any]) -> None:
    pool = cluster_object("crd.projectcalico.org/v1", "IPPool", "second", spec={"cidr": "10.99.0.0/16"})
    with there(server, CALICO, pool):
        code, answer = check("--cluster", "10.244.0.0/16,192.0.2.0/24,172.30.0.0/16,fd02::/112")
        assert code == 69
        told = next(one["found"] for one in answer["checks"] if one["check"] == "inside")
        assert told.startswith("10.99.0.0/16 are of pods")
        everything = ",".join(answer["clusterNetworks"])
        assert check("--cluster", everything)[0] == 0


def test_what_may_not_be_read_is_named(
    make_api_server: Callable[..., ApiServer], check: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_api_server(users=["nobody"])
    kubeconfig = other.credentials.kubeconfig(other.url)
    text = kubeconfig.read_text().replace(other.token, other.credentials.tokens["nobody"])
    restricted = kubeconfig.with_name("nobody.kubeconfig")
    restricted.write_text(text)

    def discovered() -> bool:
        return bool(check(kubeconfig=restricted)[0] != 75)

    wait_until("the roles of every user are there", discovered, 20.0)
    code, answer = check(kubeconfig=restricted)
    assert (code, answer["fits"]) == (1, None)
    assert {"/api/v1/nodes", "/apis/apps/v1/daemonsets"} <= answer["notLookedAt"].keys()
    assert set(answer["notLookedAt"].values()) == {"403 Forbidden"}
    assert {one["check"] for one in answer["checks"] if one["level"] == "unknown"} == {"container network", "nodes"}


def test_nothing_is_written_and_the_table_says_what_to_do(
    server: ApiServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with there(server, *REFUSED["Cilium"][0]):
        capsys.readouterr()
        before = server.kubectl("get", "all,crd,configmaps", "-A", "-o", "name")
        assert guarded(lambda: run(["egressip", "install", "--check", "--kubeconfig", str(server.kubeconfig)])) == 69
        assert server.kubectl("get", "all,crd,configmaps", "-A", "-o", "name") == before
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("REFUSED"))
    assert "Cilium 1.18.2" in lines[at]
    assert lines[at + 1].strip().startswith("-> use CiliumEgressGatewayPolicy")
    assert lines[-1] == "ours cannot work here"
    away = tmp_path / "away"
    away.write_text(server.kubeconfig.read_text().replace(server.url, "https://127.0.0.1:1"))
    assert guarded(lambda: run(["egressip", "install", "--check", "--kubeconfig", str(away)])) == 75
    assert guarded(lambda: run(["egressip", "install"])) == 2
    assert guarded(lambda: run(["egressip", "install", "--check", "--cluster", "x"])) == 2
