"""From wanted addresses and existing slots to steps, and their commands."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.values import Address, Family, HostName, family_of
from egress_router.dns_proxy.destinations import Destination
from egress_router.dns_proxy.haproxy.runtime import runtime_commands
from egress_router.dns_proxy.haproxy.slots import Action, Server, Step, family_of_slot, fresh_slots, steps

FOUR = [ip_address(f"203.0.113.{last}") for last in range(1, 9)]
SIX = [ip_address(f"2001:db8:113::{last}") for last in range(1, 5)]


def carried_out(slots: list[Server], todo: list[Step]) -> list[Server]:
    """Return the slots after the steps, as HAProxy would have them; asserts that each step is possible."""
    found = {server.name: server for server in slots}
    for step in todo:
        before = found.get(step.server.name)
        assert (before is None) == (step.action is Action.ADD)
        if before is not None and step.action is Action.MOVE:
            found[before.name] = Server(before.name, step.server.address, before.ready)
        elif before is not None:
            assert before.address == step.server.address
            found[before.name] = Server(before.name, before.address, step.action is Action.READY)
        else:
            found[step.server.name] = step.server
    return list(found.values())


ADDRESSES = st.lists(st.sampled_from(FOUR + SIX), unique=True)


@given(st.lists(ADDRESSES, max_size=6))
def test_any_history_of_answers_leads_to_the_wanted_servers(history: list[list[Address]]) -> None:
    slots: list[Server] = []
    largest = 0
    for wanted in history:
        largest = max(largest, *(sum(a.version == v for a in wanted) for v in (4, 6)))
        slots = carried_out(slots, steps(wanted, slots))
        assert sorted(map(str, wanted)) == sorted(str(server.address) for server in slots if server.ready)
        assert steps(wanted, slots) == [], "a second time changes nothing"
        assert all(family_of_slot(server.name) is family_of(server.address) for server in slots)
        assert len(slots) <= 2 * largest, "slots are reused"


@given(ADDRESSES, ADDRESSES)
def test_a_backend_is_never_without_a_server_in_between(old: list[Address], new: list[Address]) -> None:
    slots = list(fresh_slots(old))
    todo = steps(new, slots)
    for number in range(len(todo) + 1):
        ready = [server for server in carried_out(slots, todo[:number]) if server.ready]
        assert ready or not old or not new


def test_an_address_that_stays_keeps_its_slot() -> None:
    slots = list(fresh_slots(FOUR[:3]))
    assert steps([FOUR[1], FOUR[5]], slots) == [
        Step(Action.MOVE, Server("ipv4-1", FOUR[5])),
        Step(Action.REST, Server("ipv4-3", FOUR[2], ready=False)),
    ]


def test_commands() -> None:
    line = Destination(3, 8080, HostName("example.com"), 80, check=True)
    sources = {Family.IPV4: ip_address("192.0.2.46"), Family.IPV6: ip_address("2001:db8:2::46")}
    todo = [
        Step(Action.ADD, Server("ipv6-1", SIX[0])),
        Step(Action.MOVE, Server("ipv4-1", FOUR[0])),
        Step(Action.READY, Server("ipv4-2", FOUR[1])),
        Step(Action.REST, Server("ipv4-3", FOUR[2], ready=False)),
    ]
    assert runtime_commands(line, todo, sources) == [
        "add server to-8080/ipv6-1 [2001:db8:113::1]:80 source [2001:db8:2::46]:0 check inter 2s",
        "enable health to-8080/ipv6-1",
        "set server to-8080/ipv6-1 state ready",
        "set server to-8080/ipv4-1 addr 203.0.113.1 port 80",
        "set server to-8080/ipv4-1 health up",
        "set server to-8080/ipv4-2 state ready",
        "set server to-8080/ipv4-3 state maint",
    ]
