"""Properties of the decision, on clusters that hypothesis thinks up."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.api import ClusterState, Decision, Disposition, HostSubnet, NetNamespace, address_text
from egress_router.egressip.assignment.decision import Evaluator, decide
from tests.egressip.unit import strategies as make
from tests.egressip.unit.oracle import Oracle, listed, parsed
from tests.support.examples import examples

Cluster = tuple[dict[str, NetNamespace], dict[str, HostSubnet]]


def placed_by(decision: Decision) -> dict[object, str]:
    return {parsed(ip): node for node, ips in decision.assignment.items() for ip in ips}


@given(make.clusters(), make.offline_sets, make.assignments, st.randoms(use_true_random=False))
@examples(50)
def test_order_of_objects_does_not_matter(
    cluster: Cluster, offline: frozenset[str], present: dict[str, tuple[str, ...]], rng: random.Random
) -> None:
    namespaces, nodes = cluster
    expected = decide(ClusterState(namespaces, nodes), offline, present)
    names, node_names, present_names = list(namespaces), list(nodes), list(present)
    for some in (names, node_names, present_names):
        rng.shuffle(some)
    mixed_nodes = {
        n: HostSubnet(
            n,
            nodes[n].host_ip,
            egress_ips=tuple(rng.sample(nodes[n].egress_ips, len(nodes[n].egress_ips))),
            egress_cidrs=tuple(rng.sample(nodes[n].egress_cidrs, len(nodes[n].egress_cidrs))),
            capacity=nodes[n].capacity,
            interface_subnets=nodes[n].interface_subnets,
        )
        for n in node_names
    }
    mixed = ClusterState({n: namespaces[n] for n in names}, mixed_nodes)
    actual = decide(mixed, offline, {n: present[n] for n in present_names})
    assert actual == expected
    assert list(actual.namespaces) == sorted(namespaces)
    assert list(actual.nodes) == sorted(nodes)


@given(make.clusters(), make.clusters(), make.offline_sets, make.offline_sets, st.randoms(use_true_random=False))
@examples(50)
def test_order_of_events_does_not_matter(
    before: Cluster, after: Cluster, offline1: frozenset[str], offline2: frozenset[str], rng: random.Random
) -> None:
    """Whatever the path of single changes, an update ends where a decision from scratch ends."""
    evaluator = Evaluator()
    evaluator.update(*before, offline=offline1)
    events: list[tuple[str, str | None]] = [("offline", None)]
    events += [("namespace", name) for name in {**before[0], **after[0]}]
    events += [("node", name) for name in {**before[1], **after[1]}]
    rng.shuffle(events)
    namespaces, nodes, offline = dict(before[0]), dict(before[1]), offline1
    for kind, name in events:
        present = evaluator.decision().assignment
        if kind == "offline":
            offline = offline2
            evaluator.update(offline=offline)
        elif kind == "namespace" and name is not None:
            evaluator.update(namespaces={name: after[0].get(name)})
            namespaces.pop(name, None)
            namespaces.update({name: after[0][name]} if name in after[0] else {})
        elif name is not None:
            evaluator.update(nodes={name: after[1].get(name)})
            nodes.pop(name, None)
            nodes.update({name: after[1][name]} if name in after[1] else {})
        assert evaluator.decision() == decide(ClusterState(namespaces, nodes), offline, present)


@given(make.clusters(), make.clusters(), make.offline_sets, make.assignments)
@examples(50)
def test_many_changes_at_once_are_one_decision(
    before: Cluster, after: Cluster, offline: frozenset[str], present: dict[str, tuple[str, ...]]
) -> None:
    evaluator = Evaluator(present)
    evaluator.update(*before)
    between = evaluator.decision()
    changed = evaluator.update(
        {name: after[0].get(name) for name in {**before[0], **after[0]}},
        {name: after[1].get(name) for name in {**before[1], **after[1]}},
        offline,
    )
    end = evaluator.decision()
    assert end == decide(ClusterState(*after), offline, between.assignment)
    for name in {**between.namespaces, **end.namespaces}:
        assert name in changed.namespaces or between.namespaces.get(name) == end.namespaces.get(name)
    for name in {**between.nodes, **end.nodes}:
        assert name in changed.nodes or between.nodes.get(name) == end.nodes.get(name)


@given(make.clusters(), make.offline_sets, make.assignments)
@examples(80)
def test_rules(cluster: Cluster, offline: frozenset[str], present: dict[str, tuple[str, ...]]) -> None:
    namespaces, nodes = cluster
    decision = decide(ClusterState(namespaces, nodes), offline, present)
    oracle = Oracle(namespaces, nodes, offline)
    automatic = placed_by(decision)
    for name, namespace in namespaces.items():
        verdict = decision.namespaces[name]
        via, used = {}, set()
        for address in listed(namespace.egress_ips):
            node = oracle.claimed_by_hand(address) or automatic.get(address)
            if node is None or (node, address.version) in used:
                continue
            used.add((node, address.version))
            if node not in offline:
                via[address] = node
        assert {parsed(v.ip): v.node for v in verdict.via} == via
        if not namespace.egress_ips:
            assert verdict.disposition is Disposition.NORMAL
        else:
            assert verdict.disposition is (Disposition.EGRESS if via else Disposition.DROP)
        not_used = [a for a in listed(namespace.egress_ips) if a not in via]
        for address in not_used:
            assert any(str(address) in reason for reason in verdict.reasons)
        assert bool(verdict.reasons) == (len(via) < len({parsed(t) or t for t in namespace.egress_ips}))
    for name, its in nodes.items():
        by_hand = [a for a in listed(its.egress_ips) if oracle.claimed_by_hand(a) == name]
        given_to = [a for a, holder in automatic.items() if holder == name]
        assert sorted(decision.nodes[name].claims) == sorted(map(str, by_hand + given_to))
        for address in listed(its.egress_ips):
            if address not in by_hand:
                assert any(str(address) in problem for problem in decision.nodes[name].problems)


@given(make.clusters(), make.offline_sets, make.assignments)
@examples(40)
def test_nodes_that_go_and_come_keep_their_claims(
    cluster: Cluster, offline: frozenset[str], present: dict[str, tuple[str, ...]]
) -> None:
    namespaces, nodes = cluster
    by_hand = {name: HostSubnet(n.name, n.host_ip, egress_ips=n.egress_ips) for name, n in nodes.items()}
    state = ClusterState(namespaces, by_hand)
    assert decide(state, offline).nodes == decide(state).nodes


@given(make.clusters(), make.offline_sets, make.assignments)
@examples(40)
def test_assignment_is_as_good_as_the_best_of_all(
    cluster: Cluster, offline: frozenset[str], present: dict[str, tuple[str, ...]]
) -> None:
    namespaces, nodes = cluster
    decision = decide(ClusterState(namespaces, nodes), offline, present)
    oracle = Oracle(namespaces, nodes, offline)
    before: dict[object, str] = {}
    for node in sorted(present):
        for text in present[node]:
            before.setdefault(parsed(text), node)
    placed = placed_by(decision)
    assert set(placed) <= set(oracle.automatic())
    assert all(node in oracle.takers(address) for address, node in placed.items())  # type: ignore[arg-type]
    assert oracle.valid(placed)  # type: ignore[arg-type]
    best = min(oracle.score(other, before) for other in oracle.assignments())  # type: ignore[arg-type]
    assert oracle.score(placed, before) == best  # type: ignore[arg-type]
    assert decide(ClusterState(namespaces, nodes), offline, decision.assignment) == decision


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1))
def test_address_text_is_canonical(four: int, six: int) -> None:
    from egress_router.egressip.api import V6, address_key

    for key in (four, V6 + six):
        text = address_text(key)
        assert address_key(text) in (key, None)
