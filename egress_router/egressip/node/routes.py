"""A policy rule and a routing table per gateway: packets with its mark go to it by the tunnel, or nowhere.

See ip-rule(8). Everything of ours carries our own protocol number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

from egress_router.config.values import ANY, Family
from egress_router.egressip.node.marks import LAST_SLOT, Marks
from egress_router.egressip.node.state import NODE_PROTOCOL, TUNNEL, Gateway
from egress_router.egressip.node.tunnel import tunnel_gateway
from egress_router.net.rtnetlink.kernel import RouteNetlink
from egress_router.net.rtnetlink.values import Link, PolicyRule, Route

#: Before the rules of container networks, which start at 100 at the earliest that is known (Cilium).
RULE_PRIORITY = 90
TABLE_BASE = 147_000
#: The last resort of a gateway's table, when its tunnel is gone: never out with the node's address.
_LAST_METRIC = 4_000_000_000
_METRIC = 1
_T = TypeVar("_T")


def table_of(slot: int) -> int:
    """Return the routing table of a gateway."""
    return TABLE_BASE + slot


def set_gateways(
    kernel: RouteNetlink, tunnel: Link, gateways: Iterable[Gateway], marks: Marks, *, only_add: bool = False
) -> list[str]:
    """Make tables and rules exactly those of the gateways; tables are filled before a rule leads to them.
    ``only_add``: what is there besides stays.

    Return what differed, a line each as a diff has it. Raises EgressRouterError.
    """
    gateways = list(gateways)
    wanted_routes = {route for gateway in gateways for route in _routes(gateway)}
    wanted_rules = {rule for gateway in gateways for rule in _rules(gateway, marks)}
    present_routes = {route for route in kernel.routes(NODE_PROTOCOL) if route.protocol == NODE_PROTOCOL}
    present_rules = {rule for rule in kernel.rules() if rule.protocol == NODE_PROTOCOL}
    if only_add:
        present_routes &= wanted_routes
        present_rules &= wanted_rules
    missing_routes, extra_routes = _sorted(wanted_routes - present_routes), _sorted(present_routes - wanted_routes)
    missing_rules, extra_rules = _sorted(wanted_rules - present_rules), _sorted(present_rules - wanted_rules)
    for route in missing_routes:
        kernel.add_route(route, tunnel.index if route.gateway else None)
    for rule in missing_rules:
        kernel.add_rule(rule)
    for rule in extra_rules:
        kernel.remove_rule(rule)
    # Adding replaces what has the same key; removing that would hit the new one.
    replaced = {_key(route) for route in wanted_routes}
    for route in extra_routes:
        if _key(route) not in replaced:
            kernel.remove_route(route, tunnel.index if route.gateway else None)
    return [
        *(f"- {item}" for item in (*missing_routes, *missing_rules)),
        *(f"+ {item}" for item in (*extra_routes, *extra_rules)),
    ]


def present_slots(kernel: RouteNetlink) -> dict[str, int]:
    """Return the gateways' numbers by next hop as the kernel has them: what an agent that starts again must keep."""
    return {
        str(route.gateway): route.table - TABLE_BASE
        for route in _sorted(kernel.routes(NODE_PROTOCOL))
        if route.gateway and 0 < route.table - TABLE_BASE <= LAST_SLOT
    }


def _routes(gateway: Gateway) -> list[Route]:
    found = []
    for family in Family:
        next_hop = ip_address(tunnel_gateway(gateway.host_ip, family))
        way = Route(
            family,
            table_of(gateway.slot),
            ANY[family],
            TUNNEL,
            next_hop,
            metric=_METRIC,
            protocol=NODE_PROTOCOL,
        )
        found += [way, replace(way, interface=None, gateway=None, metric=_LAST_METRIC, type="unreachable")]
    return found


def _rules(gateway: Gateway, marks: Marks) -> list[PolicyRule]:
    return [
        PolicyRule(
            family,
            RULE_PRIORITY,
            table_of(gateway.slot),
            mark=marks.mark_of(gateway.slot),
            mask=marks.mask,
            protocol=NODE_PROTOCOL,
        )
        for family in Family
    ]


def _key(route: Route) -> Route:
    """Return what the kernel tells routes apart by."""
    return replace(route, interface=None, gateway=None, source=None, mtu=None)


def _sorted(items: Iterable[_T]) -> list[_T]:
    return sorted(items, key=str)
