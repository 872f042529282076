"""Gateways that may still translate a pod's address as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.node import reassignment
from egress_router.egressip.node.plan import node_plan
from egress_router.egressip.node.reassignment import ReassignmentGuard
from egress_router.egressip.node.state import Direct, Remote
from tests.support.examples import examples

POD, FIRST, SECOND, THIRD, FOURTH = "198.51.100.2", "192.0.2.45", "192.0.2.46", "192.0.2.47", "192.0.2.49"
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


def test_an_address_that_goes_through_three_pods_quickly() -> None:
    """The first one's holder, which has not heard of the second, may be the third one's."""
    back = replace(STATE, namespaces={**STATE.namespaces, "r": NetNamespace("r", 3, ("192.0.2.48",))})
    third = replace(back, pods={("r", "one"): Pod("r", "one", "a", (POD,))})
    heirs = follow(ReassignmentGuard(), STATE, owned_by("q"), owned_by(), third)
    assert heirs.unconfirmed == {POD: {"b", "c"}}
    assert heirs.on_reply("b", {POD: ""})
    assert not heirs.on_reply("c", {POD: SECOND}), "it translates as for the first one"
    heirs = follow(heirs, owned_by(), owned_by("r"))
    assert heirs.unconfirmed == {POD: {"c"}}, "who has confirmed is not asked again"


class Holder:
    """Hears of pods and namespaces when it is told to, and translates by what it has heard."""

    def __init__(self, name: str, holds: frozenset[str]) -> None:
        self.name = name
        self.holds = holds
        self.translates = dict[str, str]()

    def hear(self, state: ClusterState) -> None:
        self.translates = {}
        for pod in state.pods.values():
            sources = self.holds.intersection(state.namespaces[pod.namespace].egress_ips)
            if sources:
                self.translates[pod.ips[0]] = min(sources)


ADDRESSES = (POD, "198.51.100.3")
owners = st.tuples(st.sampled_from([None, *"pqrs"]), st.sampled_from([None, "p"]))


@examples(400)
@example([("pods", ("p", None)), ("hear", "c"), ("pods", ("q", None)), ("pods", (None, None)), ("pods", ("s", None))])
@given(
    st.lists(
        st.one_of(
            owners.map(lambda names: ("pods", names)),
            st.tuples(st.just("hear"), st.sampled_from("bc")),
            st.tuples(st.just("ask"), st.sampled_from("bc")),
        ),
        max_size=30,
    )
)
def test_nobody_who_translates_for_an_earlier_pod_is_trusted(steps: list[tuple[str, Any]]) -> None:
    """Whatever pods an address goes through, and whenever holders hear of it and answer."""
    more = HostSubnet("b", "192.0.2.12", egress_ips=(FIRST, THIRD, FOURTH))
    known = replace(
        STATE,
        namespaces={**STATE.namespaces, "s": NetNamespace("s", 4, (FOURTH,))},
        nodes={**STATE.nodes, "b": more},
        pods={},
    )
    decision = decide(known)
    holders = {name: Holder(name, frozenset({FIRST, THIRD, FOURTH} if name == "b" else {SECOND})) for name in "bc"}
    guard, state = ReassignmentGuard(), known
    guard.follow("a", state, decision)
    for what, value in steps:
        if what == "pods":
            owned = {(name, ip): Pod(name, ip, "a", (ip,)) for ip, name in zip(ADDRESSES, value, strict=True) if name}
            state = replace(known, pods=owned)
            guard.follow("a", state, decision)
        elif what == "hear":
            holders[value].hear(state)
        else:
            asked = guard.pending_queries().get(value, [])
            guard.on_reply(value, {ip: holders[value].translates.get(ip, "") for ip in asked})
        for pod in state.pods.values():
            for holder in holders.values():
                source = holder.translates.get(pod.ips[0], "")
                if source and source not in known.namespaces[pod.namespace].egress_ips:
                    assert holder.name in guard.unconfirmed.get(pod.ips[0], ()), (pod, holder.name, source)
    for name, holder in holders.items():
        holder.hear(state)
        asked = guard.pending_queries().get(name, [])
        guard.on_reply(name, {ip: holder.translates.get(ip, "") for ip in asked})
    assert guard.unconfirmed == {}, "once all have heard, nobody is doubted"


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
