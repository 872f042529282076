"""Which interface is the egress interface."""

from __future__ import annotations

import re

import pytest

from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.values import Link
from egress_router.redirect.egress_link import EgressLink, choose_egress_link, refuse_unfit


def links(**kinds: str) -> tuple[Link, ...]:
    return tuple(
        Link(index, name, kind, "", 1500, up=False, lower_up=False) for index, (name, kind) in enumerate(kinds.items())
    )


@pytest.mark.parametrize(
    ("wanted", "seen", "name", "create", "reason"),
    [
        ("net1", {"eth0": "veth", "net1": "veth", "macvlan0": "macvlan"}, "net1", False, "named by EGRESS_INTERFACE"),
        (None, {"eth0": "veth", "macvlan0": "macvlan", "m2": "macvlan"}, "macvlan0", False, "macvlan0 exists"),
        (None, {"eth0": "veth", "macvlan0": "veth"}, "macvlan0", False, "macvlan0 exists"),
        (None, {"eth0": "veth", "net1": "macvlan"}, "net1", False, "the only macvlan link"),
        (None, {"eth0": "macvlan", "net1": "macvlan"}, "net1", False, "the only macvlan link"),
        (None, {"eth0": "veth", "net1": "veth"}, "macvlan0", True, "there is no macvlan link"),
        (None, {"eth0": "macvlan"}, "macvlan0", True, "there is no macvlan link"),
    ],
)
def test_chosen(wanted: str | None, seen: dict[str, str], name: str, create: bool, reason: str) -> None:
    assert choose_egress_link(wanted, links(**seen), "eth0") == EgressLink(name, create, reason)


@pytest.mark.parametrize(
    ("wanted", "seen", "cluster", "message"),
    [
        (
            "net9",
            {"eth0": "veth"},
            "eth0",
            "EGRESS_INTERFACE=net9: there is no such interface here; links seen: eth0 (veth, down)",
        ),
        ("net9", {}, None, "there is no such interface here; links seen: none"),
        ("eth0", {"eth0": "veth"}, "eth0", "EGRESS_INTERFACE=eth0 carries the pod's default route"),
        (
            None,
            {"eth0": "", "net1": "macvlan", "net2": "macvlan"},
            "eth0",
            (
                "there are 2 macvlan links and none is macvlan0: set EGRESS_INTERFACE to one of net1, net2; "
                "links seen: eth0 (device, down), net1 (macvlan, down), net2 (macvlan, down)"
            ),
        ),
        (None, {"macvlan0": "macvlan", "eth0": "veth"}, "macvlan0", "macvlan0 carries the pod's default route"),
    ],
)
def test_refused(wanted: str | None, seen: dict[str, str], cluster: str | None, message: str) -> None:
    with pytest.raises(PlatformError, match=re.escape(message)):
        choose_egress_link(wanted, links(**seen), cluster)


def test_another_macvlan_when_macvlan0_is_the_cluster_interface() -> None:
    seen = links(macvlan0="macvlan", net1="macvlan")
    assert choose_egress_link(None, seen, "macvlan0").name == "net1"


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (
            Link(2, "net1", "macvlan", "", 1500, up=False, lower_up=False, master=3),
            (
                "net1 belongs to red (vrf), which gets what it receives, so no reply would find its client. Take it "
                "out (ip link set net1 nomaster) or name another EGRESS_INTERFACE; links seen: net1 (macvlan, down), "
                "red (vrf, up)"
            ),
        ),
        *(
            (
                Link(2, "net1", "ipvlan", "", 1500, up=False, lower_up=False, ipvlan_mode=mode),
                (
                    f"net1 answers no ARP and no neighbour discovery: it is an ipvlan in mode {mode}, so the gateway "
                    "would not find EGRESS_SOURCE. Make it with mode l2, or take a macvlan"
                ),
            )
            for mode in ("l3", "l3s")
        ),
    ],
)
def test_unfit(link: Link, message: str) -> None:
    red = Link(3, "red", "vrf", "", 65575, up=True, lower_up=True)
    with pytest.raises(PlatformError, match=re.escape(message)):
        refuse_unfit(link, (link, red))


def test_fit() -> None:
    red = Link(3, "red", "vrf", "", 65575, up=True, lower_up=True)
    for link in (
        Link(2, "net1", "macvlan", "", 1500, up=False, lower_up=False),
        Link(2, "net1", "ipvlan", "", 1500, up=False, lower_up=False, ipvlan_mode="l2"),
    ):
        refuse_unfit(link, (link, red))
