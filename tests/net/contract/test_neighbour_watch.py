"""Questions to gateways, and what the kernel on the other side makes of them."""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from egress_router.config.values import Address
from egress_router.errors import AddressInUse
from egress_router.net.arp_nd import PROBES, Claim, Neighbours
from egress_router.net.neighbour_watch import NeighbourWatch
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import Link

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace")]

GATEWAY = ip_address("2001:db8:2::1")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def link() -> Link:
    """The egress interface, on whose other end a gateway starts."""
    ip("link", "add", "gateway", "type", "veth", "peer", "name", "router")
    for name in ("gateway", "router"):
        ip("link", "set", name, "addrgenmode", "none", "up")
    with Rtnetlink() as kernel:
        link = kernel.link("router")
    assert link is not None
    return link


def test_who_has_no_address_does_not_take_that_of_a_gateway_that_starts(link: Link) -> None:
    """A question from :: is duplicate address detection (RFC 4862, 5.4.3): the gateway would give its address up."""
    with closing(NeighbourWatch(link.name, link.index, link.mac)) as watch:
        ip("address", "add", f"{GATEWAY}/64", "dev", "gateway")
        end = time.monotonic() + 10
        heard: list[Claim] = []
        while not heard:
            watch.ask(GATEWAY, None)
            time.sleep(0.1)
            heard = watch.heard()
            shown = ip("address", "show", "dev", "gateway")
            assert "dadfailed" not in shown, shown
            assert time.monotonic() < end, "an answer comes as soon as the gateway has its address"
    assert {claim.address for claim in heard} == {GATEWAY}


def test_who_asks_for_an_address_before_taking_it_is_heard(link: Link) -> None:
    """ARP probes and duplicate address detection (RFC 5227, RFC 4862); who looks for a neighbour only is not."""
    mine = [ip_address("192.0.2.46"), ip_address("2001:db8:2::46")]
    for address, length in zip(mine, (24, 64), strict=True):
        ip("address", "add", f"{address}/{length}", "dev", "router", "nodad")
    with Rtnetlink() as kernel:
        other = kernel.link("gateway")
    assert other is not None
    asked: list[Address] = []
    with (
        closing(NeighbourWatch(link.name, link.index, link.mac)) as watch,
        closing(Neighbours(other.name, other.index, other.mac)) as asking,
    ):
        watch.on_probe = asked.append
        for address in mine:
            asking._send(asking._question(address, ip_address("192.0.2.1") if address.version == 4 else GATEWAY))
        time.sleep(0.2)
        watch.heard()
        assert asked == []
        # The first answer is enough for who waits.
        for hasty, probes in ((False, {PROBES}), (True, set(range(1, PROBES)))):
            asked.clear()
            with pytest.raises(AddressInUse, match=r"192\.0\.2\.46 is in use"):
                asking.check_duplicates(mine, hasty=hasty)
            assert watch.heard() == []
            assert {asked.count(address) for address in mine} <= probes


def test_neither_does_a_router_that_starts_at_the_same_time(link: Link) -> None:
    with closing(Neighbours(link.name, link.index, link.mac)) as neighbours:
        ip("address", "add", f"{GATEWAY}/64", "dev", "gateway")
        neighbours.check_duplicates([ip_address("2001:db8:2::46")], [GATEWAY])
    assert "dadfailed" not in ip("address", "show", "dev", "gateway")


def test_a_gateway_that_answers_for_others_is_told_from_another_machine(link: Link) -> None:
    """A router's proxied advertisement (RFC 4861, 7.2.8) is no claim; it is known by its answer for itself."""
    ip("address", "add", f"{GATEWAY}/64", "dev", "gateway", "nodad")
    mine = "2001:db8:2::46"
    for name in ("proxy_ndp", "forwarding"):
        Path(f"/proc/sys/net/ipv6/conf/gateway/{name}").write_text("1")
    ip("neighbour", "add", "proxy", mine, "dev", "gateway")
    with closing(Neighbours(link.name, link.index, link.mac)) as neighbours:
        neighbours.check_duplicates([ip_address(mine)], [GATEWAY])
        with pytest.raises(AddressInUse):
            neighbours.check_duplicates([GATEWAY])
