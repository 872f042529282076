"""Put routes and policy rules in place. See rtnetlink(7)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from egress_router.config.values import Family
from egress_router.net.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, NetlinkError, fibmsg, rtmsg
from egress_router.net.rtnetlink.values import PROTOCOL, PolicyRule, Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE = 24, 25, 32, 33
_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_RTNH_F_ONLINK = 4
_FR_ACT_TO_TBL = 1
_COMPAT_TABLE = 252


def add_route(netlink: Netlink, route: Route, index: int | None) -> None:
    """Add ``route``, or replace the one with the same destination and metric. Raises NetlinkError."""
    request = _route(route, index)
    request["scope"] = _SCOPE_UNIVERSE if route.gateway or route.type != "unicast" else _SCOPE_LINK
    if route.family == Family.IPV6:
        request["scope"] = _SCOPE_UNIVERSE
    netlink.change(request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, f"add {route}")


def remove_route(netlink: Netlink, route: Route, index: int | None) -> None:
    """Remove ``route``; one that is gone already is fine. Raises NetlinkError."""
    request = _route(route, index)
    request["scope"] = _SCOPE_NOWHERE
    _gone_is_fine(lambda: netlink.change(request, RTM_DELROUTE, 0, f"remove {route}"))


def _route(route: Route, index: int | None) -> rtmsg:
    request = rtmsg()
    request["family"] = _AF[route.family]
    request["dst_len"] = route.destination.prefixlen
    request["table"] = route.table if route.table < 256 else _COMPAT_TABLE
    request["proto"] = route.protocol
    request["type"] = _TYPES[route.type]
    attrs: list[tuple[str, object]] = [("RTA_TABLE", route.table)]
    if not route.is_default:
        attrs.append(("RTA_DST", str(route.destination.network_address)))
    if index is not None:
        attrs.append(("RTA_OIF", index))
    if route.gateway is not None:
        # The gateway may be in no connected prefix (a /32 source, a point-to-point CNI).
        request["flags"] = _RTNH_F_ONLINK
        attrs.append(("RTA_GATEWAY", str(route.gateway)))
    if route.source is not None:
        attrs.append(("RTA_PREFSRC", str(route.source)))
    if route.metric:
        attrs.append(("RTA_PRIORITY", route.metric))
    if route.mtu is not None:
        attrs.append(("RTA_METRICS", {"attrs": [("RTAX_MTU", route.mtu)]}))
    request["attrs"] = attrs
    return request


def add_rule(netlink: Netlink, rule: PolicyRule) -> None:
    """Add a policy rule; one that exists is fine. Raises NetlinkError."""
    try:
        netlink.change(_rule(rule), RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, f"add {rule}")
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def remove_rule(netlink: Netlink, rule: PolicyRule) -> None:
    """Remove a policy rule; one that is gone already is fine. Raises NetlinkError."""
    _gone_is_fine(lambda: netlink.change(_rule(rule), RTM_DELRULE, 0, f"remove {rule}"))


def _rule(rule: PolicyRule) -> fibmsg:
    request = fibmsg()
    request["family"] = _AF[rule.family]
    request["table"] = rule.table if rule.table < 256 else _COMPAT_TABLE
    request["action"] = _FR_ACT_TO_TBL
    attrs: list[tuple[str, object]] = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_TABLE", rule.table),
        ("FRA_PROTOCOL", PROTOCOL),
    ]
    if rule.source is not None:
        request["src_len"] = rule.source.prefixlen
        attrs.append(("FRA_SRC", str(rule.source.network_address)))
    if rule.in_interface is not None:
        attrs.append(("FRA_IIFNAME", rule.in_interface))
    if rule.mark is not None:
        attrs.append(("FRA_FWMARK", rule.mark))
    request["attrs"] = attrs
    return request


def _gone_is_fine(action: Callable[[], None]) -> None:
    try:
        action()
    except NetlinkError as error:
        if error.code not in (errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL):
            raise
