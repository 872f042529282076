"""What `egressip install --check` makes of what a server answers, whatever that is."""

from __future__ import annotations

import copy
import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from egress_router.egressip.fit import look, this_machine
from egress_router.egressip.fit.cluster_networks import inside
from egress_router.egressip.fit.judge import fits, judge
from egress_router.egressip.fit.values import Finding, Level, Picture

PORTS = {("UDP", 14790): "the tunnel", ("TCP", 9910): "the agents' health"}


def node(name: str = "node-1", **more: Any) -> dict[str, Any]:
    info = {
        "kernelVersion": "6.12.41",
        "operatingSystem": "linux",
        "architecture": "amd64",
        "kubeletVersion": "v1.37.2",
    }
    return {
        "metadata": {"name": name, "labels": {"egress-router.io/egress-assignable": ""}, **more.pop("metadata", {})},
        "spec": {"podCIDRs": ["10.244.1.0/24"], **more.pop("spec", {})},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.11"}],
            "nodeInfo": {**info, **more.pop("info", {})},
        },
    }


def daemon_set(name: str, **pod: Any) -> dict[str, Any]:
    containers = [{"name": name, "image": f"example.com:5000/{name}:v1.2.3@sha256:0", "ports": [], "env": []}]
    return {
        "metadata": {"name": name, "namespace": "kube-system", "labels": {}},
        "spec": {"template": {"spec": {"hostNetwork": True, "containers": containers, **pod}}},
    }


def picture(**lists: Any) -> Picture:
    found: dict[str, Any] = {
        look.NODES: [node("a"), node("b")],
        look.DAEMON_SETS: [daemon_set("kube-router"), daemon_set("kube-proxy")],
    }
    return Picture("v1.37.2", frozenset({"apps/v1"}), {**found, **lists})


def of(found: list[Finding], check: str) -> list[Level]:
    return [one.level for one in found if one.check == check]


def test_all_is_well() -> None:
    found = judge(picture(), ["10.244.0.0/16", "192.0.2.0/24"], ["192.0.2.45"], PORTS)
    assert {one.level for one in found} == {Level.OK, Level.UNSEEN}
    assert fits(found) is True
    assert any(one.found == "kube-router 1.2.3" for one in found)


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("v1.30.14", Level.REFUSED),
        ("v1.31.0", Level.OK),
        ("v1.31.5+k3s1", Level.OK),
        ("v2.0.0", Level.OK),
        ("", Level.UNKNOWN),
    ],
)
def test_versions(version: str, level: Level) -> None:
    seen = picture()
    seen.version = version
    assert of(judge(seen, [], [], PORTS), "server") == [level]


@pytest.mark.parametrize(
    ("kernel", "level"),
    [
        ("6.1.0-37-amd64", Level.OK),
        ("5.14.0-570.el9.x86_64", Level.WARNING),
        ("4.18.0-553.el8", Level.WARNING),
        ("", Level.WARNING),
    ],
)
def test_kernels(kernel: str, level: Level) -> None:
    seen = picture(**{look.NODES: [node("a"), node("b", info={"kernelVersion": kernel})]})
    assert of(judge(seen, [], [], PORTS), "kernels") == [level]


def test_windows_counts_for_nothing_and_clouds_are_named() -> None:
    windows = node(
        "w", info={"operatingSystem": "windows", "kernelVersion": "10.0.20348"}, spec={"providerID": "aws:///x/i-1"}
    )
    seen = picture(**{look.NODES: [node("a"), node("b"), windows]})
    found = judge(seen, [], [], PORTS)
    assert of(found, "kernels") == [Level.OK]
    assert of(found, "cloud") == []
    seen = picture(**{look.NODES: [node("a"), node("b", spec={"providerID": "azure:///subscriptions/x"})]})
    assert of(judge(seen, [], [], PORTS), "cloud") == [Level.WARNING]


@pytest.mark.parametrize(("kind", "level"), [("OVNKubernetes", Level.REFUSED), ("OpenShiftSDN", Level.WARNING)])
def test_openshift_says_itself_which_network_it_has(kind: str, level: Level) -> None:
    network = {
        "metadata": {"name": "cluster"},
        "status": {
            "networkType": kind,
            "serviceNetwork": ["172.30.0.0/16"],
            "clusterNetwork": [{"cidr": "10.128.0.0/14", "hostPrefix": 23}],
        },
    }
    seen = picture(**{look.DAEMON_SETS: [], look.OPENSHIFT_NETWORK[0]: [network]})
    assert of(judge(seen, [], [], PORTS), "container network") == [level]
    assert {"172.30.0.0/16", "10.128.0.0/14"} <= set(inside(seen))


def test_what_decides_and_may_not_be_read_is_unknown() -> None:
    seen = picture(**{look.DAEMON_SETS: [daemon_set("calico-node")]})
    assert of(judge(seen, [], [], PORTS), "container network") == [Level.OK]
    seen.unseen[look.FELIX[0]] = "403 Forbidden"
    found = judge(seen, [], [], PORTS)
    assert of(found, "container network") == [Level.UNKNOWN]
    assert fits(found) is None
    seen.lists[look.CALICO_INSTALLATIONS[0]] = [{"spec": {"calicoNetwork": {"linuxDataplane": "Iptables"}}}]
    assert of(judge(seen, [], [], PORTS), "container network") == [Level.OK]


def test_cloud_addresses_of_openshift_are_names() -> None:
    seen = picture(**{look.CLOUD_ADDRESSES[0]: [{"metadata": {"name": "2001.db8.0.0.0.0.0.45"}}]})
    assert of(judge(seen, [], ["2001:db8::45"], PORTS), "addresses") == [Level.REFUSED]


JUNK: list[Any] = [None, [], {}, "", "x", -1, 1e308, True, [[]], [{}], {"a": []}, ["192.0.2.1/24"]]


def test_any_answer_is_survived() -> None:
    """Each value in a picture with everything in it, replaced by junk: findings, never a fault."""
    whole = picture(
        **{
            look.HOST_PODS: [
                {"metadata": {"name": "a", "namespace": "b"}, "spec": daemon_set("x")["spec"]["template"]["spec"]}
            ],
            look.SERVICES: [
                {
                    "metadata": {"name": "s", "annotations": {"kube-vip.io/egress": "true"}},
                    "spec": {"clusterIPs": ["10.96.0.1"]},
                }
            ],
            look.CONFIG_MAPS: [
                {"metadata": {"name": name}, "data": {"net-conf.json": "{}", "config.conf": "mode: x"}}
                for name in ("kube-flannel-cfg", "kube-proxy", "cilium-config", "egress-ips")
            ],
            look.DAEMON_SETS: [
                daemon_set(name) for name in ("cilium", "calico-node", "kube-flannel-ds", "kube-vip-ds")
            ],
            look.FELIX[0]: [{"spec": {"bpfEnabled": True, "vxlanPort": 4789}}],
            look.CALICO_INSTALLATIONS[0]: [{"spec": {"calicoNetwork": {"linuxDataplane": "x"}}}],
            look.METALLB_POOLS[0]: [{"metadata": {"name": "p"}, "spec": {"addresses": ["192.0.2.0/24", "a-b"]}}],
            look.OVN_EGRESS_IPS[0]: [{"metadata": {"name": "p"}, "spec": {"egressIPs": ["192.0.2.1"]}}],
            look.HOST_SUBNETS[0]: [{"metadata": {"name": "h"}, "egressIPs": ["192.0.2.45"]}],
            look.OURS[0]: [{"metadata": {"name": "o"}, "spec": {"egressIPs": ["192.0.2.45"]}}],
        }
    )
    places: list[tuple[Any, ...]] = []

    def walk(value: Any, path: tuple[Any, ...]) -> None:
        if len(path) > 2:
            places.append(path)
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            walk(value[key], (*path, key))

    walk(whole.lists, ())
    assert len(places) > 100
    for number, path in enumerate(places):
        lists = copy.deepcopy(whole.lists)
        inner: Any = lists
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = JUNK[number % len(JUNK)]
        assert judge(Picture(whole.version, whole.groups, lists), [], ["192.0.2.45"], PORTS)


# This machine


def machine(root: Path, config: str = "", modules: str = "", **filters: str) -> list[Finding]:
    (root / "proc").mkdir()
    if config:
        (root / "proc" / "config.gz").write_bytes(gzip.compress(config.encode()))
    if modules:
        folder = root / "lib" / "modules" / "6.1.0-test"
        folder.mkdir(parents=True)
        (folder / "modules.dep").write_text(modules)
    for name, value in filters.items():
        (root / "proc/sys/net/ipv4/conf" / name).mkdir(parents=True)
        (root / "proc/sys/net/ipv4/conf" / name / "rp_filter").write_text(f"{value}\n")
    return this_machine.findings(root, "6.1.0-test")


WHOLE = "".join(f"CONFIG_{name}=y\n" for name in this_machine.NEEDED)
MODULES = "".join(f"kernel/net/{name.replace('_', '-')}.ko.xz:\n" for name in this_machine.NEEDED.values() if name)


@pytest.mark.parametrize(
    ("config", "modules", "level", "said"),
    [
        (WHOLE, "", Level.OK, "all that agents need"),
        (WHOLE.replace("NFT_NAT=y", "NFT_NAT=m"), "", Level.OK, "all that agents need"),
        (WHOLE.replace("CONFIG_VXLAN=y", "# CONFIG_VXLAN is not set"), MODULES, Level.REFUSED, "lacks CONFIG_VXLAN"),
        ("", MODULES, Level.OK, "by the names of its modules"),
        ("", MODULES.replace("nft-nat", "nft-not"), Level.REFUSED, "lacks nft_nat"),
        ("", "", Level.UNSEEN, "has no list"),
    ],
)
def test_what_the_kernel_has(tmp_path: Path, config: str, modules: str, level: Level, said: str) -> None:
    found = machine(tmp_path, config, modules)[0]
    assert found.level is level
    assert said in found.found


def test_a_list_that_is_broken_is_none(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "config.gz").write_bytes(gzip.compress(WHOLE.encode())[:-20])
    assert this_machine.findings(tmp_path, "6.1.0-test")[0].level is Level.UNSEEN


@pytest.mark.parametrize(
    ("filters", "level", "said"),
    [
        ({"all": "0", "default": "0", "eth0": "0", "cni0": "2"}, Level.OK, "strict nowhere"),
        ({"all": "0", "default": "1", "eth0": "1", "cni0": "2"}, Level.WARNING, "strict on eth0 ("),
        ({"all": "1", "default": "0", "eth0": "0", "cni0": "2"}, Level.WARNING, "strict on eth0 ("),
        ({"all": "2", "default": "0", "eth0": "0", "cni0": "1"}, Level.OK, "strict nowhere"),
        ({}, Level.UNSEEN, "cannot be read"),
    ],
)
def test_reverse_path_filters(tmp_path: Path, filters: dict[str, str], level: Level, said: str) -> None:
    found = machine(tmp_path, **filters)[1]
    assert found.level is level
    assert said in found.found


def test_the_machine_that_runs_this_is_looked_at() -> None:
    """Whatever it has, both answers come from its kernel: a sysctl is no file of any size."""
    options, *filters = this_machine.findings(Path("/"), os.uname().release)
    assert options.check == "kernel options"
    assert [one.level for one in filters] != [Level.UNSEEN]
