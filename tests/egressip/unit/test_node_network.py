"""Tunnel, routes, rules and neighbours of gateways on a namespace in memory: order, repair, what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from egress_router.config.values import Family
from egress_router.egressip.node import tunnel as tunnel_module
from egress_router.egressip.node.marks import Marks
from egress_router.egressip.node.routes import present_slots, set_gateways
from egress_router.egressip.node.state import NODE_PROTOCOL, TUNNEL, TUNNEL_PORT, Gateway
from egress_router.egressip.node.tunnel import ensure_tunnel, set_peers
from egress_router.net.rtnetlink.fake import FakeRtnetlink
from egress_router.net.rtnetlink.values import ForwardingEntry, Link, Neighbour, PolicyRule, Route

OUTSIDE = Link(2, "eth0", "veth", "02:00:00:00:00:01", 1500, up=True, lower_up=True)
HOST_IP = "192.0.2.11"
GATEWAYS = (Gateway(1, "b", "192.0.2.12"), Gateway(2, "c", "2001:db8:2::13"))
FOREIGN_RULE = PolicyRule(Family.IPV4, 90, 100, mark=7, protocol=4)
FOREIGN_ROUTE = Route(Family.IPV4, 147_001, ip_network("203.0.113.0/24"), "eth0", metric=5)


@pytest.fixture(autouse=True)
def no_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "read_sysctl", lambda item: item.value)
    monkeypatch.setattr(tunnel_module, "set_sysctl", lambda *_: None)


def kernel() -> FakeRtnetlink:
    found = FakeRtnetlink([OUTSIDE])
    found.add_rule(FOREIGN_RULE)
    found.add_route(FOREIGN_ROUTE, OUTSIDE.index)
    found.calls.clear()
    return found


def apply(fake: FakeRtnetlink, gateways: tuple[Gateway, ...] = GATEWAYS) -> list[str]:
    link, lines = ensure_tunnel(fake, HOST_IP, OUTSIDE, TUNNEL_PORT)
    return lines + set_peers(fake, link, gateways) + set_gateways(fake, link, gateways, Marks())


def whole(fake: FakeRtnetlink) -> object:
    link = fake.link(TUNNEL)
    if link is None:
        return None
    rules = set(fake.rules())
    return link.mac, fake.addresses(), set(fake.routes()), rules, fake.neighbours(link), fake.forwarding(link)


def test_tables_are_filled_before_a_rule_leads_to_them() -> None:
    fake = kernel()
    assert apply(fake)
    calls = fake.calls
    assert max(at for at, name in enumerate(calls) if name == "add_route") < calls.index("add_rule")
    assert max(at for at, name in enumerate(calls) if name == "set_neighbour") < calls.index("add_route")
    assert calls.index("without_own_addresses") < calls.index("set_up") < calls.index("set_neighbour")
    fake.calls.clear()
    assert apply(fake) == []
    assert fake.calls == [], "nothing to do"


def test_a_gateway_that_goes_loses_its_rule_before_its_table() -> None:
    fake = kernel()
    apply(fake)
    fake.calls.clear()
    apply(fake, GATEWAYS[:1])
    assert fake.calls.index("remove_rule") < fake.calls.index("remove_route")
    assert {rule.table for rule in fake.rules() if rule.protocol == NODE_PROTOCOL} == {147_001}
    assert FOREIGN_RULE in fake.rules()
    assert FOREIGN_ROUTE in fake.routes()


def test_an_agent_that_starts_again_finds_the_numbers() -> None:
    fake = kernel()
    apply(fake)
    assert present_slots(fake)["192.0.2.12"] == 1


def link_of(fake: FakeRtnetlink) -> Link:
    link = fake.link(TUNNEL)
    assert link is not None
    return link


TAMPERING: dict[str, Callable[[FakeRtnetlink], object]] = {
    "rule": lambda fake: fake.remove_rule(next(r for r in fake.rules() if r.protocol == NODE_PROTOCOL)),
    "route": lambda fake: fake.remove_route(
        next(r for r in fake.routes(NODE_PROTOCOL) if r.gateway), link_of(fake).index
    ),
    "down": lambda fake: fake.set_down(link_of(fake)),
    "deleted": lambda fake: fake.remove_link(link_of(fake)),
    "neighbour": lambda fake: fake.remove_neighbour(link_of(fake), min(fake.neighbours(link_of(fake)), key=str)),
    "forwarding": lambda fake: fake.remove_neighbour(link_of(fake), min(fake.forwarding(link_of(fake)), key=str)),
    "address": lambda fake: fake.remove_address(link_of(fake), fake.addresses(link_of(fake))[0]),
    "other MAC": lambda fake: fake.set_neighbour(
        link_of(fake), Neighbour(ip_address("192.0.2.12"), "0a:00:00:00:00:09")
    ),
    "one more": lambda fake: fake.set_neighbour(
        link_of(fake), ForwardingEntry("0a:00:00:00:00:09", ip_address("192.0.2.9"))
    ),
    "another way": lambda fake: fake.add_route(
        replace(next(r for r in fake.routes(NODE_PROTOCOL) if r.gateway), gateway=ip_address("192.0.2.99")),
        link_of(fake).index,
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_whatever_is_changed_is_put_back_and_named(what: str) -> None:
    fake = kernel()
    apply(fake)
    before = whole(fake)
    TAMPERING[what](fake)
    assert whole(fake) != before or what == "down", "positive control"
    assert apply(fake) != []
    assert whole(fake) == before
    assert apply(fake) == []
