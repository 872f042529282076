"""The kernel and the namespace in memory do the same."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from egress_router.config.values import ANY, Family
from egress_router.net.netlink import NetlinkError
from egress_router.net.rtnetlink.fake import FakeRtnetlink
from egress_router.net.rtnetlink.kernel import RouteNetlink, Rtnetlink
from egress_router.net.rtnetlink.values import ForwardingEntry, Link, LinkAddress, Neighbour, PolicyRule, Route, Vxlan
from egress_router.net.rtnetlink.watch import RouteWatch, Subject

pytestmark = pytest.mark.root

MAC, OTHER_MAC = "0a:00:00:00:00:01", "0a:00:00:00:00:02"
VXLAN = Vxlan(4242, 4243, ip_address("192.0.2.11"))
PROTOCOL = 199
_CLONE_NEWNET = 0x40000000


def in_new_namespace() -> tuple[Rtnetlink, RouteWatch]:
    """Return sockets to the kernel in a network namespace of their own, which goes away with them."""
    found: list[tuple[Rtnetlink, RouteWatch]] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        found.append((Rtnetlink(), RouteWatch()))

    # A namespace belongs to a thread, and sockets stay in the one where they were made.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(params=["kernel", "fake"])
def kernel(request: pytest.FixtureRequest) -> Iterator[RouteNetlink]:
    if request.param == "fake":
        yield FakeRtnetlink()
        return
    real, watch = in_new_namespace()
    yield real
    watch.close()
    real.close()


@pytest.fixture
def link(kernel: RouteNetlink) -> Link:
    """A VXLAN that is up."""
    return made(kernel)


def made(kernel: RouteNetlink, name: str = "vx0") -> Link:
    kernel.create_vxlan(name, MAC, 1400, replace(VXLAN, id=VXLAN.id + len(kernel.links())))
    found = kernel.link(name)
    assert found is not None
    kernel.without_own_addresses(found)
    kernel.set_up(found)
    up = kernel.link(name)
    assert up is not None
    return up


def test_links(kernel: RouteNetlink) -> None:
    assert kernel.link("vx0") is None
    kernel.create_vxlan("vx0", MAC, 1400, VXLAN)
    link = kernel.link("vx0")
    assert link is not None
    assert (link.kind, link.mac, link.mtu, link.vxlan, link.up) == ("vxlan", MAC, 1400, VXLAN, False)
    with pytest.raises(NetlinkError, match="EEXIST"):
        kernel.create_vxlan("vx0", MAC, 1400, VXLAN)
    kernel.set_up(link)
    assert kernel.link("vx0") in kernel.links()
    up = kernel.link("vx0")
    assert up is not None
    assert up.up
    assert up.lower_up
    kernel.remove_link(link)
    kernel.remove_link(link)
    assert kernel.link("vx0") is None


@pytest.mark.parametrize("text", ["192.0.2.45/32", "2001:db8:2::45/128", "192.0.2.46/24"])
def test_addresses(kernel: RouteNetlink, link: Link, text: str) -> None:
    item = LinkAddress("vx0", ip_interface(text))
    kernel.add_address(link, item)
    kernel.add_address(link, item)
    assert kernel.addresses(link) == (item,)
    assert item in kernel.addresses()
    (found,) = kernel.addresses(link)
    assert (found.preferred, found.dynamic, found.tentative, found.duplicate) == (True, False, False, False)
    kernel.remove_address(link, item)
    kernel.remove_address(link, item)
    assert kernel.addresses(link) == ()


@pytest.mark.parametrize("text", ["192.0.2.45/32", "2001:db8:2::45/128"])
def test_an_address_that_is_no_source(kernel: RouteNetlink, link: Link, text: str) -> None:
    label = "vx0:x" if "." in text else ""
    item = LinkAddress("vx0", ip_interface(text), label=label, protocol=PROTOCOL, preferred=False)
    kernel.add_address(link, item, replace=True)
    kernel.add_address(link, item, replace=True)
    (found,) = kernel.addresses(link)
    assert (found.label, found.protocol, found.preferred) == (label or found.label, PROTOCOL, False)


@pytest.mark.parametrize("family", Family)
def test_routes(kernel: RouteNetlink, link: Link, family: Family) -> None:
    gateway = ip_address("192.0.2.1" if family is Family.IPV4 else "fe80::1")
    way = Route(family, 14_700, ANY[family], "vx0", gateway, metric=7, protocol=PROTOCOL)
    nowhere = Route(family, 14_700, ANY[family], None, metric=9, type="unreachable", protocol=PROTOCOL)
    other = replace(way, gateway=ip_address("192.0.2.2" if family is Family.IPV4 else "fe80::2"))
    # Without any IPv4 address, the kernel knows no local table and takes every next hop for a broadcast address.
    kernel.add_address(link, LinkAddress("vx0", ip_interface("169.254.147.90/32")))
    kernel.add_route(way, link.index)
    kernel.add_route(nowhere, None)
    assert set(kernel.routes(PROTOCOL)) == {way, nowhere}
    assert {way, nowhere} <= set(kernel.routes())
    assert kernel.default_routes() == ()
    kernel.add_route(other, link.index)
    assert set(kernel.routes(PROTOCOL)) == {other, nowhere}, "the same key: replaced"
    kernel.remove_route(way, link.index)
    assert other in kernel.routes(PROTOCOL), "another gateway: another route"
    kernel.remove_route(other, link.index)
    kernel.remove_route(other, link.index)
    kernel.remove_route(nowhere, None)
    assert kernel.routes(PROTOCOL) == ()


def test_a_route_needs_a_link_that_is_up(kernel: RouteNetlink) -> None:
    kernel.create_vxlan("vx0", MAC, 1400, VXLAN)
    link = kernel.link("vx0")
    assert link is not None
    route = Route(Family.IPV4, 14_700, ip_network("198.51.100.0/24"), "vx0", metric=7, protocol=PROTOCOL)
    with pytest.raises(NetlinkError, match="ENETDOWN"):
        kernel.add_route(route, link.index)
    kernel.set_up(link)
    kernel.add_route(route, link.index)
    assert kernel.routes(PROTOCOL) == (route,)
    kernel.remove_link(link)
    assert kernel.routes(PROTOCOL) == ()
    with pytest.raises(NetlinkError, match="ENODEV"):
        kernel.add_route(route, link.index)


@pytest.mark.parametrize("family", Family)
def test_rules(kernel: RouteNetlink, family: Family) -> None:
    source = ip_network("192.0.2.45/32" if family is Family.IPV4 else "2001:db8::45/128")
    rules = {
        PolicyRule(family, 90, 14_701, mark=0x10000, mask=0xFFF0000, protocol=PROTOCOL),
        PolicyRule(family, 91, 14_702, mark=5, protocol=PROTOCOL),
        PolicyRule(family, 92, 100, source=source, protocol=PROTOCOL),
        PolicyRule(family, 93, 14_703, in_interface="vx0", protocol=PROTOCOL),
        PolicyRule(family, 94, 14_704, mark=0xCA6C, protocol=PROTOCOL, inverted=True),
    }
    for rule in rules:
        kernel.add_rule(rule)
        kernel.add_rule(rule)
    assert {rule for rule in kernel.rules() if rule.protocol == PROTOCOL} == rules
    assert len([rule for rule in kernel.rules() if rule.protocol == PROTOCOL]) == len(rules)
    for rule in rules:
        kernel.remove_rule(rule)
        kernel.remove_rule(rule)
    assert [rule for rule in kernel.rules() if rule.protocol == PROTOCOL] == []


def test_neighbours_and_forwarding_entries(kernel: RouteNetlink, link: Link) -> None:
    entries = [Neighbour(ip_address(text), MAC) for text in ("192.0.2.12", "fe80::12")]
    forwarding = ForwardingEntry(MAC, ip_address("192.0.2.12"))
    every: list[Neighbour | ForwardingEntry] = [*entries, forwarding]
    for entry in every:
        kernel.set_neighbour(link, entry)
        kernel.set_neighbour(link, entry)
    assert kernel.neighbours(link) == set(entries)
    assert kernel.forwarding(link) == {forwarding}
    moved = Neighbour(ip_address("192.0.2.12"), OTHER_MAC)
    kernel.set_neighbour(link, moved)
    assert kernel.neighbours(link) == {moved, entries[1]}
    left: list[Neighbour | ForwardingEntry] = [moved, entries[1], forwarding]
    for entry in left:
        kernel.remove_neighbour(link, entry)
        kernel.remove_neighbour(link, entry)
    assert kernel.neighbours(link) == frozenset()
    assert kernel.forwarding(link) == frozenset()


def test_what_goes_with_a_link(kernel: RouteNetlink, link: Link) -> None:
    kernel.add_address(link, LinkAddress("vx0", ip_interface("192.0.2.45/32")))
    kernel.set_neighbour(link, Neighbour(ip_address("192.0.2.12"), MAC))
    kernel.remove_link(link)
    again = made(kernel)
    assert kernel.addresses(again) == ()
    assert kernel.neighbours(again) == frozenset()


def test_notices_of_all_of_it() -> None:
    """What has changed is told, with what it was; who did it where the kernel says so."""
    kernel, watch = in_new_namespace()
    try:
        link = made(kernel)
        item = LinkAddress("vx0", ip_interface("192.0.2.45/32"))
        kernel.add_address(link, item)
        kernel.remove_address(link, item)
        rule = PolicyRule(Family.IPV6, 90, 14_701, mark=1, protocol=PROTOCOL)
        kernel.add_rule(rule)
        kernel.remove_rule(rule)
        route = Route(Family.IPV4, 14_700, ANY[Family.IPV4], "vx0", metric=7, protocol=PROTOCOL)
        kernel.add_route(route, link.index)
        kernel.remove_route(route, link.index)
        kernel.set_neighbour(link, Neighbour(ip_address("fe80::12"), MAC))
        kernel.set_neighbour(link, ForwardingEntry(MAC, ip_address("192.0.2.12")))
        kernel.set_ipv4_parameter(link, 8, 2)
        kernel.remove_link(link)
        notices = watch.notices()
        assert notices is not None
        told = {(n.subject, n.removed, n.index, n.protocol, str(n.address or n.name)) for n in notices}
        assert {
            (Subject.LINK, False, link.index, 0, "vx0"),
            (Subject.LINK, True, link.index, 0, "vx0"),
            (Subject.ADDRESS, False, link.index, 0, "192.0.2.45"),
            (Subject.ADDRESS, True, link.index, 0, "192.0.2.45"),
            (Subject.RULE, False, 0, PROTOCOL, ""),
            (Subject.RULE, True, 0, PROTOCOL, ""),
            (Subject.ROUTE, False, link.index, PROTOCOL, ""),
            (Subject.ROUTE, True, link.index, PROTOCOL, ""),
            (Subject.NEIGHBOUR, False, link.index, 0, ""),
            (Subject.PARAMETER, False, link.index, 0, ""),
        } <= told
        own = [n for n in notices if n.subject in (Subject.RULE, Subject.ROUTE) and n.protocol == PROTOCOL]
        assert {n.port for n in own} == {kernel.port}, "ours are known as ours"
        assert watch.notices() == []
    finally:
        watch.close()
        kernel.close()
