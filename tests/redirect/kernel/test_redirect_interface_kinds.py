"""Egress interfaces of kinds that distributions' kernels have: VLAN, ipvlan, VRF. Right, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab import Host, Lab
from lab.addressing import parse
from tests.redirect.kernel.offloaded import is_offloaded, talking, tracked
from tests.redirect.kernel.router import Router, assert_answered_by

pytestmark = [pytest.mark.root, pytest.mark.distribution_kernel]

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
#: The egress network on VLAN 100: its prefixes, the gateway's and the router's addresses.
VLAN = {4: "198.18.100", 6: "2001:db8:100:"}
ON_VLAN = {
    "EGRESS_SOURCE": "198.18.100.46/24 2001:db8:100::46/64",
    "EGRESS_GATEWAY": "198.18.100.1 2001:db8:100::1",
}


@pytest.fixture
def router(make_lab: Callable[..., Lab]) -> Router:
    """A router pod without an egress interface; a gateway that is on VLAN 100 too."""
    lab = make_lab(nodes=1)
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[443])
    lab.gateway.ip_batch(
        [
            "link add link eth0 name eth0.100 type vlan id 100",
            "addr add 198.18.100.1/24 dev eth0.100",
            "addr add 2001:db8:100::1/64 dev eth0.100 nodad",
            "link set eth0.100 up",
        ]
    )
    return Router(lab, "nftables", rules=RULES, macvlan=False)


def cable(router: Router) -> None:
    """Give the pod net1, a cable to the LAN, as a host-device or bridge plugin does; it is up."""
    lab, pod = router.lab, router.host
    lab.lan.ip_batch(
        [f"link add name extra type veth peer name net1 netns {pod.netns}", "link set extra master br0 up"]
    )
    pod.ip("link set net1 up")


def ipvlan(router: Router, mode: str) -> None:
    """Give the pod ipvl0 on its node's NIC, in a mode of ip-link(8)."""
    node: Host = router.lab.nodes[0]
    node.ip(f"link add link eth0 name ipvl0 netns {router.host.netns} type ipvlan mode {mode}")


def assert_leaves_with(router: Router, source4: str, source6: str) -> None:
    assert_answered_by(router.tcp(80), source4, "203.0.113.25", 80)
    assert_answered_by(router.tcp(443, 6), source6, "2001:db8:113::25", 443)
    # Those that stay are offloaded.
    for family, port in ((4, 80), (6, 443)):
        with talking(router.client, router, "tcp", family, port) as talk:
            assert all(talk.say(text) == text for text in "abcde")
            assert is_offloaded(router, talk), tracked(router, talk.port)


def test_a_vlan_of_the_pods_interface(router: Router) -> None:
    cable(router)
    options = {"EGRESS_INTERFACE": "net1.100", **ON_VLAN}
    router.host.ip_batch(["link add link net1 name net1.100 type vlan id 100"])
    with router.lab.capture(interface="eth0.100") as capture:
        router.init(EGRESS_DAD="on", **options)
        assert_leaves_with(router, "198.18.100.46", "2001:db8:100::46")
    assert capture.sources() >= {parse("198.18.100.46"), parse("2001:db8:100::46")}
    assert router.status(**options)["state"] == "ok"


def test_a_macvlan_on_a_vlan_of_the_node(router: Router) -> None:
    node = router.lab.nodes[0]
    node.ip_batch(["link add link eth0 name eth0.100 type vlan id 100", "link set eth0.100 up"])
    done = router.init(EGRESS_HOST_NETNS=node.netns_path, EGRESS_PARENT_INTERFACE="eth0.100", **ON_VLAN)
    assert f"created macvlan0 on eth0.100 of {node.netns_path}" in done.stderr
    assert_leaves_with(router, "198.18.100.46", "2001:db8:100::46")


def test_an_ipvlan_in_layer_2(router: Router) -> None:
    ipvlan(router, "l2")
    with router.lab.capture() as capture:
        router.init(EGRESS_INTERFACE="ipvl0", EGRESS_DAD="on")
        assert_leaves_with(router, "192.0.2.46", "2001:db8:2::46")
    # The NIC's own MAC: that is what an ipvlan is.
    assert capture.owner_mac("192.0.2.46") == router.lab.nodes[0].mac()


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_in_use_is_seen_from_an_ipvlan(router: Router, family: int) -> None:
    """Of IPv6. An ipvlan hands out what it receives by IP address, and an answer to an ARP probe has none of ours."""
    lab = router.lab
    ipvlan(router, "l2")
    owner = lab.machine("owner", "192.0.2.46" if family == 4 else "192.0.2.99", "2001:db8:2::99")
    if family == 6:
        owner.ip("addr add 2001:db8:2::46/64 dev eth0 nodad")
    done = router.init(EGRESS_INTERFACE="ipvl0", EGRESS_DAD="on", check=False)
    if family == 4:
        assert done.returncode == 0, done.stderr
        assert "ipvl0 is an ipvlan" in done.stderr
        assert "another owner of 192.0.2.46 would not be noticed" in done.stderr
    else:
        assert done.returncode == 75, done.stderr
        assert owner.mac() in done.stderr


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_an_ipvlan_in_layer_3_is_refused(router: Router, mode: str) -> None:
    """It has no neighbours: nobody would answer the gateway's ARP for EGRESS_SOURCE."""
    ipvlan(router, mode)
    before = router.state()
    done = router.init(EGRESS_INTERFACE="ipvl0", check=False)
    assert done.returncode == 69, done.stderr
    assert "ipvl0 answers no ARP" in done.stderr
    assert "mode l2" in done.stderr
    assert router.state() == before


def test_an_interface_in_a_vrf_is_refused(router: Router) -> None:
    """What it receives is looked up in the VRF's table, where no way back to the clients is."""
    pod = router.host
    router.lab.macvlan(pod)
    pod.ip_batch(["link add red type vrf table 100", "link set red up", "link set macvlan0 master red"])
    before = router.state()
    done = router.init(check=False)
    assert done.returncode == 69, done.stderr
    assert "macvlan0 belongs to red (vrf)" in done.stderr
    assert "ip link set macvlan0 nomaster" in done.stderr
    assert router.state() == before
    pod.ip("link set macvlan0 nomaster")
    router.init()
    assert_leaves_with(router, "192.0.2.46", "2001:db8:2::46")


def test_a_nic_in_a_vrf_carries_a_macvlan(router: Router) -> None:
    """Which takes its packets before the VRF does."""
    node = router.lab.nodes[0]
    node.ip_batch(
        [
            "link add red type vrf table 100",
            "link set red up",
            f"link add name spare type veth peer name spare netns {router.lab.lan.netns}",
            "link set spare master red",
            "link set spare up",
        ]
    )
    router.lab.lan.ip("link set spare master br0 up")
    router.init(EGRESS_HOST_NETNS=node.netns_path, EGRESS_PARENT_INTERFACE="spare")
    assert_leaves_with(router, "192.0.2.46", "2001:db8:2::46")
