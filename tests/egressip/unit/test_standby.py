"""Who stands by for an address: never its holder, never too much, and the same as before as long as may be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Problems
from egress_router.egressip.api import ClusterState, Decision, HostSubnet, NetNamespace
from egress_router.egressip.assignment.decision import decide, decision_json, decision_text
from egress_router.egressip.assignment.standby import taken_over, with_standbys
from egress_router.egressip.source.objects import parse_cluster_state

_CIDR = "192.0.2.0/24"


def _node(number: int, capacity: int | None = None, *by_hand: str, cidr: str = _CIDR) -> HostSubnet:
    return HostSubnet(f"n{number}", f"198.51.100.{number}", "", by_hand, (cidr,), capacity)


def _cluster(spaces: Mapping[str, tuple[str, ...]], *nodes: HostSubnet) -> ClusterState:
    listed = {name: NetNamespace(name, n, ips) for n, (name, ips) in enumerate(spaces.items())}
    return ClusterState(listed, {node.name: node for node in nodes})


def _holders(decision: Decision) -> dict[str, str]:
    return {ip: node for node, ips in decision.assignment.items() for ip in ips}


clusters = st.builds(
    lambda spaces, capacities: _cluster(
        {f"s{n}": tuple(f"192.0.2.{10 * n + m}" for m in range(count)) for n, count in enumerate(spaces, 1)},
        *(_node(n, capacity) for n, capacity in enumerate(capacities, 1)),
    ),
    st.lists(st.integers(1, 3), max_size=8),
    st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=5),
)


@given(clusters, st.sets(st.sampled_from(["n1", "n2", "n3"]), max_size=2))
def test_the_rules(state: ClusterState, offline: set[str]) -> None:
    decision = decide(state, offline, standby=True)
    holders = _holders(decision)
    owner = {ip: name for name, space in state.namespaces.items() for ip in space.egress_ips}
    assert decision.standbys.keys() <= holders.keys()
    for failing in {*holders.values()}:
        held = {ip: node for ip, node in holders.items() if node != failing}
        held |= {ip: decision.standbys[ip] for ip in decision.standbys.keys() - held.keys()}
        assert failing not in held.values()
        assert offline.isdisjoint(held.values())
        for node, count in Counter(held.values()).items():
            capacity = state.nodes[node].capacity
            assert capacity is None or count <= capacity
        assert max(Counter((owner[ip], node) for ip, node in held.items()).values(), default=1) == 1


@given(clusters)
def test_what_was_chosen_stays(state: ClusterState) -> None:
    decision = decide(state, standby=True)
    recorded = replace(state, assignment=decision.assignment, standbys=decision.standbys)
    assert decide(recorded, standby=True) == decision
    backwards = ClusterState(dict(reversed(list(state.namespaces.items()))), dict(reversed(list(state.nodes.items()))))
    assert decide(backwards, standby=True).standbys == decision.standbys


@given(clusters)
def test_everybody_has_one_where_there_is_room(state: ClusterState) -> None:
    """Two more nodes without a limit than a namespace has addresses can hold each of them twice."""
    free = replace(state, nodes={f"n{n}": _node(n) for n in range(1, 6)})
    decision = decide(free, standby=True)
    assert decision.standbys.keys() == _holders(decision).keys()


def test_a_new_one_is_chosen_for_what_lost_its_own_and_for_nothing_else() -> None:
    spaces = {f"s{n}": (f"192.0.2.{n}",) for n in range(1, 10)}
    state = _cluster(spaces, *map(_node, range(1, 5)))
    first = decide(state, standby=True)
    lost = first.standbys["192.0.2.1"]
    second = with_standbys(first, state.namespaces, state.nodes, {lost}, first.standbys)
    changed = {ip for ip in first.standbys if first.standbys[ip] != second.standbys.get(ip)}
    assert changed == {ip for ip, node in first.standbys.items() if node == lost}
    assert lost not in second.standbys.values()


def test_neither_by_range_nor_beside_an_address_by_hand() -> None:
    ip, other = "192.0.2.1", "192.0.2.2"
    outside = _node(2, cidr="203.0.113.0/24")
    assert decide(_cluster({"s": (ip,)}, _node(1), outside), standby=True).standbys == {}
    beside = _node(2, None, other)
    assert decide(_cluster({"s": (ip, other)}, _node(1), beside), standby=True).standbys == {}
    assert decide(_cluster({"s": (ip,), "t": (other,)}, _node(1), beside), standby=True).standbys == {ip: "n2"}


def test_who_takes_over() -> None:
    state = _cluster({"s": ("192.0.2.1",), "t": ("192.0.2.2",)}, *map(_node, range(1, 4)))
    state = replace(
        state,
        assignment={"n1": ("192.0.2.1", "192.0.2.2")},
        standbys={"192.0.2.1": "n2", "192.0.2.2": "n3", "192.0.2.9": "n2"},
    )
    assert taken_over(state, {"n1"}) == {"192.0.2.1": "n2", "192.0.2.2": "n3"}
    assert taken_over(state, {"n1", "n3"}) == {"192.0.2.1": "n2"}
    assert taken_over(state, {"n2"}) == {}
    assert taken_over(replace(state, standbys={"192.0.2.1": "gone"}), {"n1"}) == {}


def test_a_node_that_may_not_have_an_address_any_more_is_taken_over_from_as_well() -> None:
    state = _cluster({"s": ("192.0.2.1",), "t": ("192.0.2.2",)}, *map(_node, range(1, 5)))
    state = replace(state, assignment={"n1": ("192.0.2.1",), "n2": ("192.0.2.2",)}, standbys={"192.0.2.1": "n4"})
    elsewhere = {**state.nodes, "n1": _node(1, cidr="192.0.2.128/25")}
    gone = {name: node for name, node in state.nodes.items() if name != "n1"}
    for nodes in (elsewhere, gone):
        found = _holders(decide(replace(state, nodes=nodes), standby=True))
        assert found == {"192.0.2.1": "n4", "192.0.2.2": "n2"}, "the standby has the connections"
    assert _holders(decide(state, ["n1"], standby=True))["192.0.2.1"] == "n4", "`plan` says what the controller does"
    assert _holders(decide(state, ["n1"]))["192.0.2.1"] == "n3", "who has the fewest, lowest name"


def test_nobody_takes_over_what_it_may_not_have() -> None:
    state = _cluster({"s": ("192.0.2.1", "192.0.2.3")}, *map(_node, range(1, 5)))
    state = replace(state, assignment={"n1": ("192.0.2.1",), "n2": ("192.0.2.3",)}, standbys={"192.0.2.1": "n4"})
    other = {**state.nodes, "n4": _node(4, cidr="192.0.2.128/25")}
    assert taken_over(replace(state, nodes=other), {"n1"}) == {}
    by_hand = {**state.nodes, "n3": _node(3, None, "192.0.2.1")}
    assert taken_over(replace(state, nodes=by_hand), {"n1"}) == {}
    assert taken_over(replace(state, namespaces={}), {"n1"}) == {}, "nobody lists it any more"
    both = replace(state, standbys={"192.0.2.1": "n4", "192.0.2.3": "n4"})
    assert taken_over(both, {"n1", "n2"}) == {"192.0.2.1": "n4"}, "a node has one of a namespace and family"
    assert _holders(decide(both, ["n1", "n2"], standby=True)) == {"192.0.2.1": "n4", "192.0.2.3": "n3"}


def test_what_is_shown() -> None:
    state = _cluster({"s": ("192.0.2.1",)}, _node(1), _node(2))
    decision = decide(state, standby=True)
    ((ip, standby),) = decision.standbys.items()
    holder = _holders(decision)[ip]
    assert f"node {holder}: holds {ip} (automatic, standby {standby})" in decision_text(decision)
    assert json.loads(decision_json(decision))["standbys"] == {ip: standby}
    plain = decide(state)
    assert f"node {holder}: holds {ip} (automatic)" in decision_text(plain)
    assert "standbys" not in json.loads(decision_json(plain))


def test_the_record_in_a_file() -> None:
    text = """{"kind": "EgressIPAssignment", "metadata": {"name": "automatic"},
    "assignment": {"a": ["192.0.2.1"]}, "standbys": {"192.0.2.1": "b"}}"""
    problems = Problems()
    assert parse_cluster_state({"x.json": text}, problems).standbys == {"192.0.2.1": "b"}
    assert not problems.errors
    parse_cluster_state({"x.json": text.replace('"b"}', "7}")}, problems)
    (problem,) = problems.errors
    assert "standbys" in str(problem)
