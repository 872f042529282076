"""A mark, a rule and a table per holder. See ip-rule(8); everything of ours carries our own protocol number."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address, ip_network

from egress_router.kernel.codecs import fibmsg, rtmsg
from egress_router.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError
from egress_router.kernel.node_tunnel import tunnel_gateway
from egress_router.kernel.routes import RTM_DELRULE, RTM_NEWRULE, add_route, remove_route
from egress_router.model.addresses import Family
from egress_router.model.network import Link, Route
from egress_router.model.node import MARK_MASK, MARK_SHIFT, TUNNEL, Holder

#: rtm_protocol of the agent's routes and rules.
NODE_PROTOCOL = 147
#: Before the rules of container networks, which start at 100 at the earliest that is known (Cilium).
RULE_PRIORITY = 90
TABLE_BASE = 147_000
_RTM_GETRULE, _RTM_GETROUTE = 34, 26
_TO_TABLE = 1
#: The last resort of a holder's table, when its tunnel is gone: never out with the node's address.
_LAST_METRIC = 4_000_000_000
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}


def table_of(slot: int) -> int:
    """Return the routing table of a slot."""
    return TABLE_BASE + slot


def set_holders(netlink: Netlink, tunnel: Link, holders: tuple[Holder, ...]) -> None:
    """Make tables and rules exactly those of the holders; tables are filled before a rule leads to them."""
    slots = {holder.slot for holder in holders}
    for version in (4, 6):
        have = _routes(netlink, version)
        wanted = {(table_of(h.slot), "via", tunnel_gateway(h.host_ip, version)) for h in holders}
        wanted |= {(table_of(h.slot), "unreachable", "") for h in holders}
        for table, kind, via in sorted(wanted - have):
            add_route(netlink, _route(version, table, kind, via), tunnel.index if kind == "via" else None)
        present = _rules(netlink, version)
        for slot in sorted(slots - present):
            _rule(netlink, version, slot, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL)
        for slot in sorted(present - slots):
            _rule(netlink, version, slot, RTM_DELRULE, 0)
        replaced = {(table, kind) for table, kind, _ in wanted}
        for table, kind, via in sorted(have - wanted):
            if (table, kind) not in replaced:
                remove_route(netlink, _route(version, table, kind, via), tunnel.index if kind == "via" else None)


def present_slots(netlink: Netlink) -> dict[str, int]:
    """Return slot by gateway as the kernel has it: what an agent that starts again must keep."""
    return {
        via: table - TABLE_BASE for version in (6, 4) for table, kind, via in _routes(netlink, version) if kind == "via"
    }


def _route(version: int, table: int, kind: str, via: str) -> Route:
    everything = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    family = Family(version)
    if kind == "via":
        return Route(family, table, everything, TUNNEL, ip_address(via), metric=1, protocol=NODE_PROTOCOL)
    return Route(family, table, everything, None, metric=_LAST_METRIC, type="unreachable", protocol=NODE_PROTOCOL)


def _routes(netlink: Netlink, version: int) -> set[tuple[int, str, str]]:
    request = rtmsg()
    request["family"] = _AF[version]
    request["proto"] = NODE_PROTOCOL
    found = set()
    for message in netlink.dump(request, _RTM_GETROUTE, "list the routes"):
        if message["proto"] != NODE_PROTOCOL:
            continue
        via = message.get_attr("RTA_GATEWAY")
        found.add((int(message.get_attr("RTA_TABLE")), "via" if via else "unreachable", via or ""))
    return found


def _rules(netlink: Netlink, version: int) -> set[int]:
    request = fibmsg()
    request["family"] = _AF[version]
    return {
        int(message.get_attr("FRA_TABLE")) - TABLE_BASE
        for message in netlink.dump(request, _RTM_GETRULE, "list the rules")
        if message.get_attr("FRA_PROTOCOL") == NODE_PROTOCOL
    }


def _rule(netlink: Netlink, version: int, slot: int, type_: int, flags: int) -> None:
    request = fibmsg()
    request["family"] = _AF[version]
    request["table"] = 252
    request["action"] = _TO_TABLE
    request["attrs"] = [
        ("FRA_PRIORITY", RULE_PRIORITY),
        ("FRA_FWMARK", slot << MARK_SHIFT),
        ("FRA_FWMASK", MARK_MASK),
        ("FRA_TABLE", table_of(slot)),
        ("FRA_PROTOCOL", NODE_PROTOCOL),
    ]
    try:
        netlink.change(request, type_, flags, f"rule for slot {slot} (IPv{version})")
    except NetlinkError as error:
        if error.code not in (errno.EEXIST, errno.ENOENT):
            raise
