"""Whatever a CNI, others and earlier runs left in a pod, the plan keeps its promises."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.values import Address, Family, Network, family_of
from egress_router.net.rtnetlink.values import MAIN_TABLE, Observed, Route
from egress_router.redirect.network_drift import network_drift
from egress_router.redirect.network_state import CLUSTER_TABLE, EGRESS_TABLE, PROTOCOL, NetworkState
from egress_router.redirect.plan import find_cluster_interface, plan_network
from egress_router.redirect.values import Mode
from tests.redirect.unit.kernel_routes import Step, apply, key, steps
from tests.support.examples import examples
from tests.support.pods import BRIDGED, CIDRS, CLUSTER, EGRESS, FAMILIES, NAMESERVERS, config, pods
from tests.support.pods import route as foreign_route

MODES = st.sampled_from(list(Mode))


def in_table(routes: tuple[Route, ...], table: int, family: Family) -> list[Route]:
    return [route for route in routes if route.table == table and route.family == family]


def lookup(routes: list[Route], destination: Address) -> Route | None:
    """The longest prefix wins, then the smallest metric."""
    covering = [route for route in routes if destination in route.destination]
    return min(covering, key=lambda route: (-route.destination.prefixlen, route.metric), default=None)


@examples(40)
@given(pods(), FAMILIES, MODES, NAMESERVERS, CIDRS)
def test_invariants(
    observed: Observed, families: tuple[Family, ...], mode: Mode, servers: list[Address], cidrs: list[Network]
) -> None:
    cluster = find_cluster_interface(observed, EGRESS)
    assert cluster is not None
    desired = plan_network(config(*families, mode=mode, cluster_cidrs=tuple(cidrs)), observed, EGRESS, servers)
    assert desired.cluster == cluster
    assert all(route.protocol == PROTOCOL for route in desired.routes)
    assert {route.family for route in desired.routes} | {rule.family for rule in desired.rules} == set(families)
    keys = [key(route) for route in desired.routes]
    assert len(keys) == len(set(keys)), "two routes of one key: the kernel keeps one of them"
    for family in families:
        forwarded = in_table(desired.routes, EGRESS_TABLE, family)
        assert all(route.interface == EGRESS for route in forwarded if route.type == "unicast")
        last = max((route for route in forwarded if route.is_default), key=lambda route: route.metric)
        assert last.type == "unreachable"
        back = in_table(desired.routes, CLUSTER_TABLE, family)
        assert all(route.interface == cluster for route in back)
        had = [r for r in in_table(observed.routes, MAIN_TABLE, family) if r.is_default and r.interface == cluster]
        assert {(r.gateway, r.metric) for r in had if r.protocol != PROTOCOL} <= {
            (r.gateway, r.metric) for r in back if r.is_default
        }
        main = in_table(desired.routes, MAIN_TABLE, family)
        assert [(r.interface, r.gateway) for r in main if r.is_default] == [(EGRESS, config().gateways[family])]
    for route in observed.routes:
        if route.table == MAIN_TABLE and route.is_default and route.family in families and route.protocol != PROTOCOL:
            assert route in desired.displaced
    assert all(route.is_default and route.table == MAIN_TABLE for route in desired.displaced)


def outcome(observed: Observed, desired: NetworkState) -> Observed:
    return apply(steps(desired, observed), observed)


@examples(40)
@given(pods(), FAMILIES, NAMESERVERS, CIDRS)
def test_planning_again_changes_nothing(
    observed: Observed, families: tuple[Family, ...], servers: list[Address], cidrs: list[Network]
) -> None:
    wanted = config(*families, cluster_cidrs=tuple(cidrs))
    desired = plan_network(wanted, observed, EGRESS, servers)
    after = outcome(observed, desired)
    assert network_drift(desired, after).lines() == []
    again = plan_network(wanted, after, EGRESS, servers)
    assert network_drift(again, after).lines() == []
    assert again.displaced == ()
    assert set(again.routes) == set(desired.routes)
    assert again.rules == desired.rules
    assert again.cluster == desired.cluster
    assert {f: set(p) for f, p in again.cluster_prefixes.items()} == {
        f: set(p) for f, p in desired.cluster_prefixes.items()
    }
    assert steps(again, after) == []


@examples(40)
@given(pods(), FAMILIES, NAMESERVERS, CIDRS, st.data())
def test_killed_at_any_point_and_run_again(
    observed: Observed, families: tuple[Family, ...], servers: list[Address], cidrs: list[Network], data: st.DataObject
) -> None:
    wanted = config(*families, cluster_cidrs=tuple(cidrs))
    desired = plan_network(wanted, observed, EGRESS, servers)
    changes: list[Step] = steps(desired, observed)
    middle = apply(changes[: data.draw(st.integers(0, len(changes)))], observed)
    end = outcome(middle, plan_network(wanted, middle, EGRESS, servers))
    undisturbed = apply(changes, observed)
    assert set(end.routes) == set(undisturbed.routes)
    assert set(end.rules) == set(undisturbed.rules)
    assert set(end.addresses) == set(undisturbed.addresses)


@pytest.mark.parametrize("gateway", ["10.128.0.9", "2001:db8:c::9"])
@pytest.mark.parametrize("first", [True, False])
def test_the_best_default_route_leads_to_nameservers_after_a_kill_too(gateway: str, first: bool) -> None:
    hop = ip_address(gateway)
    family = family_of(hop)
    metric = 100
    second = foreign_route(family, "default", CLUSTER, gateway, metric=metric)
    observed = replace(BRIDGED, routes=(second, *BRIDGED.routes) if first else (*BRIDGED.routes, second))
    best = hop if family is Family.IPV6 else ip_address("10.128.0.1")  # IPv6's first one has 1024
    outside = [ip_network("172.30.0.0/16"), ip_network("2001:db8:9::7/128")]
    wanted = config(family, cluster_cidrs=tuple(outside))
    changes = steps(plan_network(wanted, observed, EGRESS), observed)
    for cut in range(len(changes) + 1):
        end = apply(changes[:cut], observed)
        end = outcome(end, plan_network(wanted, end, EGRESS))
        [kept] = [item for item in in_table(end.routes, MAIN_TABLE, family) if item.destination in outside]
        assert kept.gateway == best, cut


@examples(40)
@given(pods(), FAMILIES)
def test_others_keep_what_is_theirs(observed: Observed, families: tuple[Family, ...]) -> None:
    after = outcome(observed, plan_network(config(*families), observed, EGRESS))
    gone = set(observed.routes) - set(after.routes)
    for route in gone:
        ours = route.table in (CLUSTER_TABLE, EGRESS_TABLE) or route.protocol == PROTOCOL
        assert ours or (route.is_default and route.family in families), route
    theirs = {rule for rule in observed.rules if rule.priority not in range(14600, 14610)}
    assert theirs <= set(after.rules)


@examples(40)
@given(pods(), FAMILIES)
def test_where_packets_go_afterwards(observed: Observed, families: tuple[Family, ...]) -> None:
    """Forwarded ones by the egress interface, answers to clients by the cluster's, the pod's own by the egress one."""
    after = outcome(observed, plan_network(config(*families), observed, EGRESS))
    cluster = find_cluster_interface(observed, EGRESS)
    for text in ("198.51.100.200", "2001:db8:ffff::1"):
        far = ip_address(text)
        family = family_of(far)
        if family not in families:
            continue
        rules = [rule for rule in after.rules if rule.family == family]
        by_cluster = [
            rule.table for rule in rules if rule.priority in range(14600, 14610) and rule.in_interface == CLUSTER
        ]
        assert by_cluster == ([EGRESS_TABLE] if cluster == CLUSTER else [])
        forwarded = lookup(in_table(after.routes, EGRESS_TABLE, family), far)
        assert forwarded is not None
        assert (forwarded.interface, forwarded.gateway) == (EGRESS, config().gateways[family])
        answer = lookup(in_table(after.routes, CLUSTER_TABLE, family), far)
        assert answer is None or answer.interface == cluster
        if any(r.is_default and r.interface == cluster and r.family == family for r in observed.routes):
            assert answer is not None
        own = lookup(in_table(after.routes, MAIN_TABLE, family), far)
        assert own is not None
        assert own.is_default <= (own.interface == EGRESS)
