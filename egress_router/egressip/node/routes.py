"""A mark, a rule and a table per holder. See ip-rule(8); everything of ours carries our own protocol number."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from egress_router.config.values import Family
from egress_router.egressip.node.state import LAST_SLOT, MARK_MASK, MARK_SHIFT, NODE_PROTOCOL, TUNNEL, Gateway
from egress_router.egressip.node.tunnel import tunnel_gateway
from egress_router.net.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError, fibmsg, rtmsg
from egress_router.net.rtnetlink.routes import RTM_DELRULE, RTM_NEWRULE, add_route, remove_route
from egress_router.net.rtnetlink.values import Link, Route

#: Before the rules of container networks, which start at 100 at the earliest that is known (Cilium).
RULE_PRIORITY = 90
TABLE_BASE = 147_000
_RTM_GETRULE, _RTM_GETROUTE = 34, 26
_TO_TABLE = 1
#: The last resort of a holder's table, when its tunnel is gone: never out with the node's address.
_LAST_METRIC = 4_000_000_000
_METRIC = 1
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_RULE_ATTRIBUTES = ("FRA_PRIORITY", "FRA_FWMARK", "FRA_FWMASK", "FRA_TABLE")


class _Rule(NamedTuple):
    """What tells rules of ours apart; those of another version may differ in anything."""

    priority: int
    mark: int
    mask: int
    table: int


class _Way(NamedTuple):
    """A default route of ours; the first three fields are what the kernel knows it by."""

    table: int
    kind: str
    metric: int
    via: str = ""


def table_of(slot: int) -> int:
    """Return the routing table of a slot."""
    return TABLE_BASE + slot


def set_holders(netlink: Netlink, tunnel: Link, holders: tuple[Gateway, ...]) -> None:
    """Make tables and rules exactly those of the holders; tables are filled before a rule leads to them."""
    rules = {_Rule(RULE_PRIORITY, holder.slot << MARK_SHIFT, MARK_MASK, table_of(holder.slot)) for holder in holders}
    for version in (4, 6):
        have = _routes(netlink, version)
        wanted = {_Way(table_of(h.slot), "via", _METRIC, tunnel_gateway(h.host_ip, version)) for h in holders}
        wanted |= {_Way(table_of(h.slot), "unreachable", _LAST_METRIC) for h in holders}
        for way in sorted(wanted - have):
            add_route(netlink, _route(version, way), tunnel.index if way.via else None)
        present = _rules(netlink, version)
        for rule in sorted(rules - present):
            _rule(netlink, version, rule, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL)
        for rule in sorted(present - rules):
            _rule(netlink, version, rule, RTM_DELRULE, 0)
        replaced = {way[:3] for way in wanted}
        for way in sorted(have - wanted):
            if way[:3] not in replaced:
                remove_route(netlink, _route(version, way), tunnel.index if way.via else None)


def present_slots(netlink: Netlink) -> dict[str, int]:
    """Return slot by gateway as the kernel has it: what an agent that starts again must keep."""
    return {
        way.via: way.table - TABLE_BASE
        for version in (6, 4)
        for way in _routes(netlink, version)
        if way.via and 0 < way.table - TABLE_BASE <= LAST_SLOT
    }


def _route(version: int, way: _Way) -> Route:
    everything = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    family = Family(version)
    if way.via:
        gateway = ip_address(way.via)
        return Route(family, way.table, everything, TUNNEL, gateway, metric=way.metric, protocol=NODE_PROTOCOL)
    return Route(family, way.table, everything, None, metric=way.metric, type="unreachable", protocol=NODE_PROTOCOL)


def _routes(netlink: Netlink, version: int) -> set[_Way]:
    request = rtmsg()
    request["family"] = _AF[version]
    request["proto"] = NODE_PROTOCOL
    found = set()
    for message in netlink.dump(request, _RTM_GETROUTE, "list the routes"):
        if message["proto"] != NODE_PROTOCOL:
            continue
        via = message.get_attr("RTA_GATEWAY") or ""
        metric = int(message.get_attr("RTA_PRIORITY") or 0)
        found.add(_Way(int(message.get_attr("RTA_TABLE")), "via" if via else "unreachable", metric, via))
    return found


def _rules(netlink: Netlink, version: int) -> set[_Rule]:
    request = fibmsg()
    request["family"] = _AF[version]
    return {
        _Rule(*(int(message.get_attr(name) or 0) for name in _RULE_ATTRIBUTES))
        for message in netlink.dump(request, _RTM_GETRULE, "list the rules")
        if message.get_attr("FRA_PROTOCOL") == NODE_PROTOCOL
    }


def _rule(netlink: Netlink, version: int, rule: _Rule, type_: int, flags: int) -> None:
    request = fibmsg()
    request["family"] = _AF[version]
    request["table"] = 252
    request["action"] = _TO_TABLE
    request["attrs"] = [*zip(_RULE_ATTRIBUTES, rule, strict=True), ("FRA_PROTOCOL", NODE_PROTOCOL)]
    try:
        netlink.change(request, type_, flags, f"rule for table {rule.table} (IPv{version})")
    except NetlinkError as error:
        if error.code not in (errno.EEXIST, errno.ENOENT):
            raise
