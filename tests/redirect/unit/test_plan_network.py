"""Plans for pods of the usual shapes, and cases that went wrong once."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from egress_router.config.values import Family
from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.values import Observed, Route
from egress_router.redirect.network_state import CLUSTER_TABLE, EGRESS_TABLE, PROTOCOL, NetworkState
from egress_router.redirect.plan import cluster_interface_warnings, find_cluster_interface, plan_network
from egress_router.redirect.values import Mode
from tests.redirect.unit.kernel_routes import apply, steps
from tests.support.pods import BRIDGED, CLUSTER, EGRESS, IPV4, IPV6, OTHER, ROUTED, config, route


def lines(state: NetworkState, table: int) -> list[str]:
    return [str(item) for item in state.routes if item.table == table]


def test_point_to_point() -> None:
    state = plan_network(config(IPV4), ROUTED, EGRESS, [ip_address("10.96.0.10")])
    assert lines(state, CLUSTER_TABLE) == [
        "route 169.254.1.1/32 dev eth0 table 14600 metric 0 (IPv4)",
        "route default via 169.254.1.1 dev eth0 table 14600 metric 0 (IPv4)",
    ]
    assert lines(state, EGRESS_TABLE) == [
        "route 192.0.2.0/24 dev macvlan0 src 192.0.2.46 table 14601 metric 0 (IPv4)",
        "route 192.0.2.1/32 dev macvlan0 src 192.0.2.46 table 14601 metric 0 (IPv4)",
        "route default via 192.0.2.1 dev macvlan0 src 192.0.2.46 table 14601 metric 0 (IPv4)",
        "route unreachable default table 14601 metric 65535 (IPv4)",
    ]
    assert lines(state, 254) == [
        "route 10.96.0.10/32 via 169.254.1.1 dev eth0 table main metric 0 (IPv4)",
        "route 192.0.2.1/32 dev macvlan0 src 192.0.2.46 table main metric 0 (IPv4)",
        "route default via 192.0.2.1 dev macvlan0 src 192.0.2.46 table main metric 0 (IPv4)",
    ]
    assert [str(rule) for rule in state.rules] == [
        "rule 14600: from 10.128.0.5/32 lookup 14600 (IPv4)",
        "rule 14601: from all iif macvlan0 lookup 14600 (IPv4)",
        "rule 14602: from all iif eth0 lookup 14601 (IPv4)",
        "rule 14603: from all fwmark 0x14600 lookup 14600 (IPv4)",
    ]


def test_no_default_route_at_all() -> None:
    routes = tuple(item for item in BRIDGED.routes if not item.is_default)
    with pytest.raises(PlatformError, match="no interface except macvlan0 carries a default route"):
        plan_network(config(), replace(BRIDGED, routes=routes), EGRESS)


def test_nameservers_of_a_family_without_source_stay_reachable() -> None:
    """Its routes stay as they are, but the pod may open connections through the cluster interface to these only."""
    servers = [ip_address("2001:db8:96::a")]
    wanted = config(IPV4, cluster_cidrs=(ip_network("2001:db8:77::/48"),))
    state = plan_network(wanted, BRIDGED, EGRESS, servers)
    assert set(map(ip_network, ("2001:db8:96::a/128", "2001:db8:77::/48"))) < set(state.cluster_prefixes[IPV6])
    assert not [item for item in state.routes if item.family is IPV6]


@pytest.mark.parametrize("server", ["192.0.2.1", "fe80::53", "127.0.0.53", "10.128.0.9"])
def test_nameservers_that_need_no_route(server: str) -> None:
    """At the egress gateway, on the link, in the pod, in a connected prefix."""
    assert plan_network(config(), BRIDGED, EGRESS, [ip_address(server)]).routes == (
        plan_network(config(), BRIDGED, EGRESS).routes
    )


@pytest.mark.parametrize(("gateway", "on_link"), [("169.254.7.1", True), ("198.51.100.1", True)])
def test_ipv4_gateways_get_a_host_route(gateway: str, on_link: bool) -> None:
    state = plan_network(config(IPV4, gateways={IPV4: ip_address(gateway)}), BRIDGED, EGRESS)
    assert any(str(item.destination) == f"{gateway}/32" for item in state.routes) is on_link


def test_a_link_local_gateway_needs_no_host_route() -> None:
    state = plan_network(config(IPV6, gateways={IPV6: ip_address("fe80::1")}), BRIDGED, EGRESS)
    assert not [item for item in state.routes if item.destination == ip_network("fe80::1/128")]
    assert len([item for item in state.routes if item.gateway == ip_address("fe80::1")]) == 2


def test_killed_between_two_default_routes() -> None:
    """The first of the cluster's default routes is gone, the second is not: both stay in our copy."""
    second = route(IPV4, "default", CLUSTER, "10.128.0.9", metric=100)
    observed = replace(BRIDGED, routes=(*BRIDGED.routes, second))
    desired = plan_network(config(IPV4), observed, EGRESS)
    changes = steps(desired, observed)
    killed = apply(changes[:-1], observed)
    assert len([item for item in killed.routes if item.table == 254 and item.is_default and item.family is IPV4]) == 2
    assert set(plan_network(config(IPV4), killed, EGRESS).routes) == set(desired.routes)


def test_default_copy_of_another_interface_is_not_taken_over() -> None:
    stale = route(IPV6, "default", OTHER, "2001:db8:9::1", table=CLUSTER_TABLE, protocol=PROTOCOL, metric=1024)
    routes = tuple(r for r in BRIDGED.routes if not (r.is_default and r.family is IPV6))
    copy = route(IPV4, "default", CLUSTER, "10.128.0.1", table=CLUSTER_TABLE, protocol=PROTOCOL)
    state = plan_network(config(), replace(BRIDGED, routes=(*routes, copy, stale)), EGRESS)
    assert state.cluster == CLUSTER
    assert all(r.interface == CLUSTER for r in state.routes if r.table == CLUSTER_TABLE)


def test_cluster_interface() -> None:
    assert find_cluster_interface(Observed(), None) is None
    assert find_cluster_interface(BRIDGED, None) == CLUSTER
    assert find_cluster_interface(BRIDGED, CLUSTER) is None
    assert not cluster_interface_warnings(BRIDGED, EGRESS)


def through(interface: str, family: Family, metric: int) -> Route:
    """A default route that somebody else has made."""
    return route(family, "default", interface, "10.9.0.1" if family is IPV4 else "fe80::1", metric=metric)


@pytest.mark.parametrize(
    ("others", "warned"),
    [
        ([(IPV4, 100)], True),
        ([(IPV4, 60)], True),
        ([(IPV4, 101)], False),
        ([(IPV6, 1024)], True),
        ([(IPV6, 1)], True),
        ([(IPV6, 2048)], False),
        ([(IPV4, 101), (IPV6, 1)], True),
    ],
)
def test_the_runtimes_interface_is_taken_wherever_another_one_leads(
    others: list[tuple[Family, int]], warned: bool
) -> None:
    """Of a second network that gives a default route, too, whatever its metric: clients come in by eth0."""
    mine = (through(CLUSTER, IPV4, 100), through(CLUSTER, IPV6, 1024))
    observed = replace(BRIDGED, routes=(*(through(OTHER, *other) for other in others), *mine))
    assert find_cluster_interface(observed, EGRESS) == CLUSTER
    assert plan_network(config(), observed, EGRESS).cluster == CLUSTER
    warnings = cluster_interface_warnings(observed, EGRESS)
    assert [OTHER in text and CLUSTER in text for text in warnings] == [True] * warned


def test_a_runtimes_interface_with_one_family_is_no_worse() -> None:
    """An IPv4 default route elsewhere was taken for the cluster's, since IPv4 counts first."""
    observed = Observed(routes=(through(OTHER, IPV4, 0), through(CLUSTER, IPV6, 1024)))
    assert find_cluster_interface(observed, EGRESS) == CLUSTER
    assert OTHER in cluster_interface_warnings(observed, EGRESS)[0]


@pytest.mark.parametrize(
    ("routes", "chosen"),
    [
        ([("net1", IPV4, 50), ("net2", IPV4, 60)], "net1"),
        ([("net2", IPV4, 60), ("net1", IPV4, 50), ("net1", IPV6, 1024)], "net1"),
        ([("net1", IPV4, 50), ("net2", IPV4, 50)], None),
        ([("net1", IPV6, 1024), ("net2", IPV6, 1024)], None),
        ([("net1", IPV4, 0), ("net2", IPV6, 1024)], None),
        ([("net1", IPV4, 0), ("net1", IPV6, 1024), ("net2", IPV6, 1)], None),
    ],
)
def test_without_the_runtimes_interface_the_best_is_taken_or_none(
    routes: list[tuple[str, Family, int]], chosen: str | None
) -> None:
    observed = replace(BRIDGED, routes=tuple(through(*item) for item in routes))
    assert not cluster_interface_warnings(observed, EGRESS)
    if chosen is not None:
        assert plan_network(config(), observed, EGRESS).cluster == chosen
        return
    with pytest.raises(PlatformError, match="net1 and net2 carry default routes of which none is better"):
        plan_network(config(), observed, EGRESS)


@pytest.mark.parametrize("mode", list(Mode))
def test_sysctls(mode: Mode) -> None:
    state = plan_network(config(IPV4, mode=mode), BRIDGED, EGRESS)
    keys = {item.key for item in state.sysctls if item.required}
    forwarding = {f"net/ipv4/conf/{interface}/forwarding" for interface in (CLUSTER, EGRESS)}
    assert keys == (forwarding if mode.redirects else set())
    both = plan_network(config(mode=mode), BRIDGED, EGRESS)
    assert ("net/ipv6/conf/all/forwarding" in {item.key for item in both.sysctls}) is mode.redirects
