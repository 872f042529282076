"""Gateways that may still translate a pod's address as it was."""

from __future__ import annotations

from dataclasses import replace

from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.node import reassignment
from egress_router.egressip.node.plan import node_plan
from egress_router.egressip.node.reassignment import ReassignmentGuard
from egress_router.egressip.node.state import Direct, Remote

POD, FIRST, SECOND, THIRD = "198.51.100.2", "192.0.2.45", "192.0.2.46", "192.0.2.47"
STATE = ClusterState(
    {
        "p": NetNamespace("p", 1, (FIRST, SECOND)),
        "q": NetNamespace("q", 2, (THIRD,)),
        "r": NetNamespace("r", 3),
    },
    {
        "a": HostSubnet("a", "192.0.2.11", "198.51.100.0/27"),
        "b": HostSubnet("b", "192.0.2.12", egress_ips=(FIRST, THIRD)),
        "c": HostSubnet("c", "192.0.2.13", egress_ips=(SECOND,)),
    },
    {("p", "one"): Pod("p", "one", "a", (POD,))},
)


def owned_by(*namespaces: str) -> ClusterState:
    return replace(STATE, pods={(name, "one"): Pod(name, "one", "a", (POD,)) for name in namespaces})


def follow(heirs: ReassignmentGuard, *states: ClusterState) -> ReassignmentGuard:
    for state in states:
        heirs.follow("a", state, decide(STATE))
    return heirs


def test_an_address_that_goes_to_another_namespace() -> None:
    heirs = follow(ReassignmentGuard(), STATE, owned_by(), owned_by("q"))
    assert heirs.unconfirmed == {POD: {"b", "c"}}
    assert heirs.pending_queries() == {"b": [POD], "c": [POD]}
    assert not heirs.on_reply("b", {POD: FIRST}), "it does not know yet"
    assert not heirs.on_reply("d", {POD: THIRD})
    assert heirs.on_reply("b", {POD: THIRD})
    assert heirs.on_reply("c", {POD: ""})
    assert heirs.unconfirmed == {}


def test_who_is_not_doubted() -> None:
    assert follow(ReassignmentGuard(), STATE).unconfirmed == {}, "an agent that starts trusts what it finds"
    assert follow(ReassignmentGuard(), owned_by("r"), owned_by(), owned_by("p")).unconfirmed == {}
    more = replace(STATE, namespaces={**STATE.namespaces, "p": NetNamespace("p", 1, (FIRST, SECOND, "192.0.2.48"))})
    assert follow(ReassignmentGuard(), STATE, more).unconfirmed == {}
    less = replace(STATE, namespaces={**STATE.namespaces, "p": NetNamespace("p", 1, (FIRST,))})
    assert follow(ReassignmentGuard(), STATE, less).unconfirmed == {POD: {"c"}}, "only who had the lost address"
    assert follow(ReassignmentGuard(), STATE, owned_by("q"), owned_by()).unconfirmed == {}


def test_a_doubted_holder_is_not_used() -> None:
    """Neither for new connections nor for those that are open."""
    state = owned_by("q")
    slots = {"b": 1, "c": 2}
    used = node_plan("a", state, decide(state), slots, frozenset())
    assert (used.paths[POD], used.translating_nodes[POD]) == (Remote(1), frozenset({1}))
    doubted = node_plan("a", state, decide(state), slots, frozenset(), unconfirmed={POD: {"b"}})
    assert (doubted.paths[POD], doubted.translating_nodes[POD]) == (Direct.NO_GATEWAY, frozenset())


def test_addresses_of_pods_that_are_gone_are_remembered_not_for_ever() -> None:
    """A CNI that gives every pod an IPv6 address of its own: what is known does not grow with them."""
    heirs = ReassignmentGuard()
    decision = decide(STATE)
    known = Pod("p", "one", "a", (POD,))
    for number in range(5000):
        other = Pod("p", "two", "a", (f"2001:db8::{number:x}",))
        heirs.follow("a", replace(STATE, pods={("p", "one"): known, ("p", "two"): other}), decision)
    assert len(heirs._sources) <= reassignment._MOST_GONE + 2
    last = replace(STATE, pods={("q", "two"): Pod("q", "two", "a", ("2001:db8::1387",))})
    assert follow(heirs, last).unconfirmed == {"2001:db8::1387": {"b", "c"}}, "the newest is remembered"
    assert follow(heirs, owned_by("q")).unconfirmed == {POD: {"b", "c"}}, "so is the oldest that was there until now"
