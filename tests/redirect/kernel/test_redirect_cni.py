"""Pods whose interfaces real CNI plugins make: each kind on both sides, and what is chained behind it.

EGRESS_ROUTER_TEST_CNI=all tries every combination; otherwise each kind comes once.
"""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from typing import Any

import pytest

from lab import Host, Lab
from lab.addressing import LAN, pod_subnet
from lab.cni_plugins import PluginFailed, attached
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router, assert_no_leak

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n53 udp 203.0.113.25\n443 tcp 2001:db8:113::25\n53 udp 2001:db8:113::25\n"
CLUSTER_SIDES = ("bridge", "ptp", "host-device")
EGRESS_SIDES = (
    "macvlan bridge",
    "macvlan private",
    "macvlan passthru",
    "macvlan mtu",
    "macvlan static",
    "host-device",
    "bridge",
)
CHAINS = ("", "sbr", "tuning", "portmap", "firewall", "bandwidth")
EVERYTHING = os.environ.get("EGRESS_ROUTER_TEST_CNI") == "all"
#: Each kind at least once.
SECTION = (
    ("bridge", "macvlan private", ""),
    ("ptp", "macvlan bridge", "tuning"),
    ("host-device", "macvlan static", ""),
    ("ptp", "macvlan static", "sbr"),
    ("bridge", "macvlan passthru", "portmap"),
    ("ptp", "macvlan mtu", "firewall"),
    ("bridge", "host-device", "tuning"),
    ("ptp", "bridge", ""),
    ("ptp", "macvlan private", "bandwidth"),
)
#: sbr moves routes of addresses that IPAM has given; bandwidth works on the node's end of a cable that CNI has laid.
POSSIBLE = tuple(
    (cluster, egress, chain)
    for cluster, egress, chain in itertools.product(CLUSTER_SIDES, EGRESS_SIDES, CHAINS)
    if (chain != "sbr" or egress == "macvlan static") and (chain != "bandwidth" or cluster != "host-device")
)
#: 100 Mbit/s both ways; bursts are in bits.
RATES = {"ingressRate": 10**8, "ingressBurst": 10**7, "egressRate": 10**8, "egressBurst": 10**7}
ROWS = POSSIBLE if EVERYTHING else SECTION


def static(*addresses: tuple[str, str | None], routes: bool = False) -> dict[str, Any]:
    """IPAM that gives fixed addresses, with gateways, and default routes by these."""
    ipam: dict[str, Any] = {"type": "static", "addresses": []}
    for address, gateway in addresses:
        ipam["addresses"].append({"address": address} | ({"gateway": gateway} if gateway else {}))
    if routes:
        ipam["routes"] = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    return ipam


def cluster_side(node: Host, pod: Host, kind: str) -> dict[str, Any]:
    """Return the plugin's configuration for the pod network, and prepare the node."""
    subnets = {family: pod_subnet(0, family) for family in (4, 6)}
    ipam = static(
        *((f"{pod.addresses[family]}/{subnets[family].prefixlen}", str(subnets[family][1])) for family in (4, 6)),
        routes=True,
    )
    if kind == "ptp":
        return {"type": "ptp", "ipam": ipam}
    if kind == "bridge":
        return {"type": "bridge", "bridge": "cni0", "isGateway": False, "ipam": ipam}
    node.ip_batch(
        [
            "link add hd-node type veth peer name hd-pod",
            "link set hd-node addrgenmode none",
            "link set hd-node master cni0",
            "link set hd-node up",
        ]
    )
    return {"type": "host-device", "device": "hd-pod", "ipam": ipam}


def egress_side(lab: Lab, node: Host, kind: str) -> tuple[dict[str, Any], str]:
    """Return the plugin's configuration for the egress network, and EGRESS_SOURCE."""
    source = f"{SOURCE4} {SOURCE6}"
    if kind in ("host-device", "bridge"):
        lab.lan.ip_batch(
            [
                f"link add name egress type veth peer name egress-nic netns {node.netns}",
                "link set egress master br0",
                "link set egress up",
            ]
        )
        if kind == "host-device":
            return {"type": "host-device", "device": "egress-nic", "ipam": {}}, source
        node.ip_batch(
            [
                "link add br-egress type bridge mcast_snooping 0 forward_delay 0",
                "link set br-egress addrgenmode none",
                "link set br-egress up",
                "link set egress-nic addrgenmode none",
                "link set egress-nic master br-egress",
                "link set egress-nic up",
            ]
        )
        return {"type": "bridge", "bridge": "br-egress", "ipam": {}}, source
    master, mode = "eth0", kind.partition(" ")[2]
    config: dict[str, Any] = {"type": "macvlan", "master": master, "mode": "bridge", "ipam": {}}
    if mode == "mtu":
        return {**config, "mtu": 1400}, source
    if mode == "static":
        given = [f"{SOURCE4}/{LAN[4].prefixlen}", f"{SOURCE6}/{LAN[6].prefixlen}"]
        return {**config, "ipam": static((given[0], str(LAN[4][1])), (given[1], str(LAN[6][1])))}, " ".join(given)
    if mode == "passthru":
        lab.lan.ip_batch(
            [
                f"link add name egress type veth peer name egress-nic netns {node.netns}",
                "link set egress master br0",
                "link set egress up",
            ]
        )
        node.ip("link set egress-nic up")
        # A second NIC on the same network: the node must not answer on it for the address of its first one.
        node.sysctl("net.ipv4.conf.egress-nic.arp_ignore", 1)
        config["master"] = "egress-nic"
    return {**config, "mode": mode}, source


def chained(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what stands behind the first plugin of the cluster side, and of the egress side."""
    chains: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
        "": ([], []),
        "sbr": ([], [{"type": "sbr"}]),
        "tuning": ([{"type": "tuning", "mtu": 1450}], [{"type": "tuning", "mac": "02:00:00:00:46:46"}]),
        "portmap": ([{"type": "portmap", "capabilities": {"portMappings": True}}], []),
        "firewall": ([{"type": "firewall", "backend": "iptables"}], []),
        "bandwidth": ([{"type": "bandwidth", **RATES}], []),
    }
    return chains[name]


@pytest.fixture
def node(make_lab: Any) -> tuple[Lab, Host]:
    """A lab whose nodes have a bridge, with the servers outside."""
    lab = make_lab(nodes=2, shape="bridge")
    lab.echo("203.0.113.25", tcp=[80], udp=53)
    lab.echo("2001:db8:113::25", tcp=[443], udp=53)
    return lab, lab.nodes[0]


@pytest.mark.parametrize(("cluster", "egress", "chain"), ROWS, ids=lambda value: value.replace(" ", "-") or "alone")
def test_a_pod_of_real_plugins(node: tuple[Lab, Host], cluster: str, egress: str, chain: str) -> None:
    lab, host = node
    router = Router(lab, "nftables", rules=RULES, macvlan=False)
    pod = router.host
    # On the other node: on the same one, a pod behind a bridge would look for one behind its own cable there.
    router.client = lab.pod("remote", node=1)
    # The lab's own cable makes room for the plugin's.
    pod.ip("link del eth0")
    near, far = chained(chain)
    config, source = egress_side(lab, host, egress)
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    with ExitStack() as stack:
        pod_network = stack.enter_context(
            attached(host, pod, "eth0", cluster_side(host, pod, cluster), *near, portMappings=ports)
        )
        network = stack.enter_context(attached(host, pod, "net1", config, *far))
        env = {"EGRESS_SOURCE": source, "EGRESS_INTERFACE": "net1", "EGRESS_DAD": "on"}
        with lab.capture() as capture:
            router.init(**env)
            assert router.tcp(80).startswith(SOURCE4)
            assert router.udp(53).startswith(SOURCE4)
            assert router.tcp(443, 6).startswith(SOURCE6)
            assert router.udp(53, 6).startswith(SOURCE6)
            if chain == "portmap":
                stranger = lab.machine("stranger", "192.0.2.99")
                answer = lab.tcp(stranger, str(host.addresses[4]), 8080, payload="hello")
                assert answer.startswith(SOURCE4), "by the node's port, through the router"
            assert lab.tcp(pod, "203.0.113.25", 80).startswith(SOURCE4), "the pod's own traffic"
            assert "nothing changed" in router.init(**env).stderr
        assert_no_leak(capture)
        if egress == "macvlan mtu":
            assert " mtu 1400 " in pod.ip("link show net1")
        if chain == "bandwidth":
            assert " tbf " in host.run(["tc", "qdisc", "show"]).stdout
        if chain == "tuning":
            assert pod.mac("net1") == "02:00:00:00:46:46"
        if egress == "macvlan static" and chain != "sbr":
            # What the plugin gave stands there still. (It does not find what sbr has moved to another table.)
            network.check()
        assert pod_network.result["interfaces"]
    assert pod.ip("link").count("net1") == 0
    assert pod.ip("link").count("eth0") == 0


def test_a_second_network_with_a_default_route(node: tuple[Lab, Host]) -> None:
    """As a second NetworkAttachmentDefinition with routes gives it: the runtime's eth0 is taken, with a warning."""
    lab, host = node
    router = Router(lab, "nftables", rules=RULES)
    third = static(("172.31.9.2/24", "172.31.9.1"))
    third["routes"] = [{"dst": "0.0.0.0/0"}]
    try:
        network = attached(host, router.host, "net1", {"type": "bridge", "bridge": "br-third", "ipam": third})
        with network, lab.capture() as capture:
            assert router.host.ip("-4 route show default").count("default") == 2, "positive control"
            done = router.init()
            assert "net1 carries a default route that is no worse than that of eth0" in done.stderr
            assert router.tcp(80).startswith(SOURCE4)
            assert router.tcp(443, 6).startswith(SOURCE6)
        assert_no_leak(capture)
    except PluginFailed as error:
        pytest.fail(str(error))
