"""Read links, addresses, routes and policy rules of the network namespace."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from egress_router.config.values import ANY, Address, Family, Network
from egress_router.net.netlink import Netlink, fibmsg, ifaddrmsg, ifinfmsg, rtmsg
from egress_router.net.rtnetlink.values import Link, LinkAddress, Observed, PolicyRule, Route

RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE = 18, 22, 26, 34
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_SCOPE_UNIVERSE = 0
_LOCAL_TABLE = 255
#: Where rtm_table stands, behind netlink's head.
_TABLE_AT = 20
_RTM_F_CLONED = 0x200
_TYPES = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_FAMILIES = {socket.AF_INET: Family.IPV4, socket.AF_INET6: Family.IPV6}


def observe(netlink: Netlink) -> Observed:
    """Return what the namespace of ``netlink`` holds. Raises NetlinkError."""
    links = read_links(netlink)
    names = {link.index: link.name for link in links}
    return Observed(
        links=links,
        addresses=read_addresses(netlink, names),
        routes=_routes(netlink, names),
        rules=_rules(netlink),
    )


def read_links(netlink: Netlink) -> tuple[Link, ...]:
    """Return the links of the namespace. Raises NetlinkError."""
    found = []
    for message in netlink.dump(ifinfmsg(), RTM_GETLINK, "list the interfaces"):
        info = message.get_attr("IFLA_LINKINFO")
        found.append(
            Link(
                index=message["index"],
                name=message.get_attr("IFLA_IFNAME"),
                kind=(info.get_attr("IFLA_INFO_KIND") if info else None) or "",
                mac=message.get_attr("IFLA_ADDRESS") or "",
                mtu=message.get_attr("IFLA_MTU") or 0,
                up=bool(message["flags"] & _IFF_UP),
                lower_up=bool(message["flags"] & _IFF_LOWER_UP),
            )
        )
    return tuple(found)


def read_addresses(netlink: Netlink, names: dict[int, str]) -> tuple[LinkAddress, ...]:
    """Return the addresses of the namespace; ``names`` are those of its links by index. Raises NetlinkError."""
    found = []
    for message in netlink.dump(ifaddrmsg(), RTM_GETADDR, "list the addresses"):
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if text is None or message["family"] not in _FAMILIES:
            continue
        address = ipaddress.ip_interface(f"{text}/{message['prefixlen']}")
        name = names.get(message["index"], "")
        found.append(LinkAddress(name, address, global_scope=message["scope"] == _SCOPE_UNIVERSE))
    return tuple(found)


def own_addresses() -> tuple[Address, ...]:
    """Return every address of this process's namespace, sorted. Raises NetlinkError."""
    with Netlink() as netlink:
        found = {entry.address.ip for entry in read_addresses(netlink, {})}
    return tuple(sorted(found, key=lambda address: (address.version, address)))


def _routes(netlink: Netlink, names: dict[int, str]) -> tuple[Route, ...]:
    found = []
    for af in _FAMILIES:
        # One family at a time: a strict dump of all families stops after IPv4.
        request = rtmsg()
        request["family"] = af
        for message in netlink.dump(
            request, RTM_GETROUTE, "list the routes", lambda data: data[_TABLE_AT] != _LOCAL_TABLE
        ):
            route = _route(message, names)
            if route is not None:
                found.append(route)
    return tuple(found)


def _route(message: Any, names: dict[int, str]) -> Route | None:
    family = _FAMILIES.get(message["family"])
    table = message.get_attr("RTA_TABLE") or message["table"]
    type_ = _TYPES.get(message["type"])
    if family is None or type_ is None or message["flags"] & _RTM_F_CLONED:
        return None
    gateway, index = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_OIF")
    hops = message.get_attr("RTA_MULTIPATH")
    if hops and index is None:
        # Equal-cost paths: the first says which interface it is, which is all that we need of foreign ones.
        index = hops[0]["oif"]
        gateway = hops[0].get_attr("RTA_GATEWAY") if hasattr(hops[0], "get_attr") else None
    metrics = message.get_attr("RTA_METRICS")
    source = message.get_attr("RTA_PREFSRC")
    return Route(
        family=family,
        table=table,
        destination=_network(message.get_attr("RTA_DST"), message["dst_len"], family),
        interface=names.get(index) if type_ == "unicast" and index else None,
        gateway=_address(gateway),
        source=_address(source),
        metric=message.get_attr("RTA_PRIORITY") or 0,
        type=type_,
        mtu=metrics.get_attr("RTAX_MTU") if metrics else None,
        protocol=message["proto"],
    )


def _rules(netlink: Netlink) -> tuple[PolicyRule, ...]:
    found = []
    for af, family in _FAMILIES.items():
        request = fibmsg()
        request["family"] = af
        for message in netlink.dump(request, RTM_GETRULE, "list the policy rules"):
            source = message.get_attr("FRA_SRC")
            found.append(
                PolicyRule(
                    family=family,
                    priority=message.get_attr("FRA_PRIORITY") or 0,
                    table=message.get_attr("FRA_TABLE") or message["table"],
                    source=_network(source, message["src_len"], family) if source else None,
                    in_interface=message.get_attr("FRA_IIFNAME"),
                    mark=message.get_attr("FRA_FWMARK"),
                    protocol=message.get_attr("FRA_PROTOCOL") or 0,
                )
            )
    return tuple(found)


def _address(text: str | None) -> Address | None:
    return ipaddress.ip_address(text) if text else None


def _network(text: str | None, length: int, family: Family) -> Network:
    return ipaddress.ip_network(f"{text}/{length}") if text else ANY[family]
