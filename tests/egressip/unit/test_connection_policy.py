"""Which connections are looked at after a change, and which of them survive."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.node.connections import Translators, is_excepted, pods_to_recheck, survives
from egress_router.egressip.node.marks import OWN_SLOT
from egress_router.egressip.node.plan import node_plan
from egress_router.egressip.node.state import Direct, Gateway, NodeState, Remote

POD, FAR, PLAIN, GONE = "198.51.100.2", "198.51.100.40", "198.51.100.3", "198.51.100.9"
FIRST, OTHER, NODE = "192.0.2.45", "192.0.2.46", "192.0.2.11"
STATE = NodeState(
    paths={POD: Remote(1), PLAIN: Direct.NODE_ADDRESS},
    translations={FAR: FIRST, POD: FIRST},
    gateways=(Gateway(1, "b", "192.0.2.12"), Gateway(2, "c", "192.0.2.13")),
    translating_nodes={POD: frozenset({1})},
)


@pytest.mark.parametrize(
    ("pod", "slot", "source", "expected"),
    [
        (POD, 1, POD, True),
        (POD, 2, POD, False),
        (POD, 3, POD, True),
        (POD, 0, NODE, False),
        (POD, OWN_SLOT, FIRST, True),
        (POD, OWN_SLOT, OTHER, False),
        (FAR, 0, FIRST, True),
        (FAR, 0, OTHER, False),
        (PLAIN, 0, NODE, True),
        (PLAIN, 1, PLAIN, False),
        (GONE, 1, GONE, False),
    ],
)
def test_which_connections_survive(pod: str, slot: int, source: str, expected: bool) -> None:
    """A slot that no holder has is no reason to cut: such packets take the pod's present way."""
    assert survives(STATE, pod, slot, source, directly=False, connected=True) is expected
    assert survives(STATE, pod, slot, source, directly=False, connected=False) is expected


@pytest.mark.parametrize(
    ("slot", "source", "connected", "expected"),
    [
        (0, NODE, True, True),
        (0, NODE, False, True),
        (1, POD, True, True),
        (1, POD, False, False),
        (OWN_SLOT, FIRST, True, True),
        (OWN_SLOT, OTHER, True, False),
        (OWN_SLOT, FIRST, False, False),
        (2, POD, True, False),
        (3, POD, True, False),
        (1, NODE, True, False),
    ],
)
def test_which_connections_survive_to_what_is_reached_directly(
    slot: int, source: str, connected: bool, expected: bool
) -> None:
    """Direct ones, and connected ones that have a holder. Without it they would leave with the pod's own address."""
    assert survives(STATE, POD, slot, source, directly=True, connected=connected) is expected


def test_what_was_direct_and_marked_a_moment_later_does_not_survive() -> None:
    """A packet between the change of the rules and the look at the connections is marked with the pod's holder."""
    assert not survives(STATE, POD, 1, NODE, directly=False, connected=True)
    assert not survives(STATE, POD, 3, NODE, directly=False, connected=True)


def test_of_a_holder_that_is_gone_only_what_waits_for_its_standby_is_kept() -> None:
    other = "198.51.100.4"
    before = replace(
        STATE,
        paths={POD: Remote(1), other: Remote(1)},
        translating_nodes={POD: frozenset({1}), other: frozenset({1, 2})},
    )
    waits = replace(
        before,
        paths={POD: Direct.NO_GATEWAY, other: Remote(2)},
        gateways=STATE.gateways[1:],
        awaited=frozenset({1}),
        translating_nodes={POD: frozenset({1}), other: frozenset({2})},
    )
    assert pods_to_recheck(before, waits) == {other}
    assert survives(waits, POD, 1, POD, directly=False, connected=True)
    assert not survives(waits, other, 1, other, directly=False, connected=True)
    over = replace(waits, awaited=frozenset(), translating_nodes={POD: frozenset({2}), other: frozenset({2})})
    assert pods_to_recheck(waits, over) == set(), "all that is left of it is cut"


def test_what_is_reached_directly() -> None:
    state = replace(STATE, excepted={POD: ("10.0.0.0/8", "192.168.7.1/32"), "2001:db8:a::2": ("2001:db8:1::/48",)})
    for pod, destination, expected in (
        (POD, "10.255.0.1", True),
        (POD, "192.168.7.1", True),
        (POD, "192.168.7.2", False),
        (POD, "2001:db8:1::1", False),
        ("2001:db8:a::2", "2001:db8:1::1", True),
        (PLAIN, "10.255.0.1", False),
    ):
        assert is_excepted(state, pod, ip_address(destination)) is expected


def test_whose_connections_are_looked_at() -> None:
    assert pods_to_recheck(None, STATE) == {POD, FAR, PLAIN}
    assert pods_to_recheck(STATE, STATE) == set()
    assert pods_to_recheck(STATE, replace(STATE, paths={**STATE.paths, POD: Remote(2)})) == set(), (
        "the old holder serves it still"
    )
    assert pods_to_recheck(STATE, replace(STATE, paths={**STATE.paths, POD: Direct.NO_GATEWAY})) == set()
    assert pods_to_recheck(STATE, replace(STATE, translating_nodes={POD: frozenset({2})})) == {POD}
    down = replace(STATE, translating_nodes={POD: frozenset()}, gateways=STATE.gateways[1:])
    assert pods_to_recheck(STATE, down) == set(), "all connections of a holder that is down are cut anyway"
    assert pods_to_recheck(STATE, replace(STATE, translations={FAR: OTHER, POD: FIRST})) == {FAR}
    assert pods_to_recheck(STATE, replace(STATE, paths={PLAIN: Direct.NODE_ADDRESS})) == {POD}
    assert pods_to_recheck(STATE, replace(STATE, paths={POD: Remote(1)})) == set()
    direct = replace(STATE, excepted={POD: ("10.0.0.0/8",)})
    assert pods_to_recheck(STATE, direct) == pods_to_recheck(direct, STATE) == {POD}
    assert pods_to_recheck(direct, replace(STATE, excepted={POD: ("10.0.0.0/9",)})) == {POD}
    assert pods_to_recheck(STATE, replace(STATE, paths={**STATE.paths, GONE: Direct.NO_GATEWAY})) == {GONE}, (
        "it may have had another owner"
    )


CLUSTER = ClusterState(
    {"p": NetNamespace("p", 1, (FIRST, OTHER, "2001:db8:2::45")), "q": NetNamespace("q", 2)},
    {
        "a": HostSubnet("a", NODE, "198.51.100.0/27"),
        "b": HostSubnet("b", "192.0.2.12", egress_ips=(FIRST, "2001:db8:2::45")),
        "c": HostSubnet("c", "192.0.2.13", egress_ips=(OTHER,)),
    },
    {
        ("p", "one"): Pod("p", "one", "a", (POD, "2001:db8:a::2")),
        ("q", "two"): Pod("q", "two", "a", (PLAIN,)),
        ("p", "far"): Pod("p", "far", "b", (FAR,)),
    },
)
SLOTS = {"b": 1, "c": 2}


def test_who_serves_a_pod() -> None:
    """Also who is offline or drains, but not who lacks the address."""
    decision = decide(CLUSTER, {"b"})
    plan = node_plan("a", CLUSTER, decision, SLOTS, frozenset())
    assert plan.translating_nodes == {POD: frozenset({1, 2}), "2001:db8:a::2": frozenset({1})}

    def translating(slots: dict[str, int], *pending: str) -> frozenset[int] | None:
        return Translators(CLUSTER.namespaces, decision, slots, pending).of("p", 4)

    assert translating(SLOTS) == frozenset({1, 2})
    assert translating(SLOTS, FIRST) == translating({"c": 2}) == frozenset({2})
    assert Translators(CLUSTER.namespaces, decision, SLOTS, ()).of("q", 4) is None


def test_an_address_of_two_pods_is_dropped() -> None:
    """Unless neither namespace has egress IPs; on its holder, nothing is translated for it."""
    heir = Pod("q", "heir", "a", (POD,))
    state = replace(CLUSTER, pods={**CLUSTER.pods, ("q", "heir"): heir})
    plan = node_plan("a", state, decide(state), SLOTS, frozenset())
    assert plan.paths[POD] == Direct.NO_GATEWAY
    assert plan.duplicate_pod_ips == {POD: ("p/one", "q/heir")}
    assert POD not in plan.translating_nodes
    assert plan.paths["2001:db8:a::2"] == Remote(1)
    holder = replace(CLUSTER, pods={**CLUSTER.pods, ("q", "heir"): Pod("q", "heir", "b", (FAR,))})
    plan = node_plan("b", holder, decide(holder), {}, frozenset({FIRST}))
    assert plan.translations == {POD: FIRST}
    assert plan.paths[FAR] == Direct.NO_GATEWAY
    both = replace(CLUSTER, pods={**CLUSTER.pods, ("r", "heir"): Pod("q", "heir", "a", (PLAIN,))})
    assert node_plan("a", both, decide(both), SLOTS, frozenset()).paths[PLAIN] == Direct.NODE_ADDRESS


def test_a_pod_with_a_nodes_address_is_none() -> None:
    """Its traffic is the node's, which leaves as it is."""
    pods = {**CLUSTER.pods, ("p", "host"): Pod("p", "host", "a", (NODE, "2001:db8:2::11"))}
    state = replace(CLUSTER, pods=pods)
    assert node_plan("a", state, decide(state), SLOTS, frozenset()) == node_plan(
        "a", CLUSTER, decide(CLUSTER), SLOTS, frozenset()
    )
