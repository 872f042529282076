"""Values ↔ rtnetlink messages: one encoder and one decoder of each. See rtnetlink(7), linux/rtnetlink.h, if_link.h,
if_addr.h, fib_rules.h, neighbour.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

from egress_router.config.values import ANY, Address, Family, Network, family_of
from egress_router.net.netlink import fibmsg, ifaddrmsg, ifinfmsg, ndmsg, rtmsg
from egress_router.net.rtnetlink.values import (
    ForwardingEntry,
    Link,
    LinkAddress,
    MacvlanMode,
    Neighbour,
    PolicyRule,
    Route,
    Vxlan,
)

AF = {Family.IPV4: int(socket.AF_INET), Family.IPV6: int(socket.AF_INET6)}
FAMILIES = {number: family for family, number in AF.items()}
AF_BRIDGE = 7

IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST, _SCOPE_NOWHERE = 0, 253, 254, 255
_IFA_F_NODAD, _IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE, _IFA_F_PERMANENT = 0x02, 0x08, 0x20, 0x40, 0x80
_FOREVER = 0xFFFFFFFF
_RTM_F_CLONED = 0x200
_RTNH_F_ONLINK = 4
_FR_ACT_TO_TBL = 1
#: Tables beyond a byte stand in an attribute; this stands in the head then.
_COMPAT_TABLE = 252
#: linux/fib_rules.h
_FIB_RULE_INVERT = 0x2
_ALL_BITS = 0xFFFFFFFF
_NUD_PERMANENT, _NUD_NOARP = 0x80, 0x40
_NTF_USE, _NTF_SELF = 0x01, 0x02
_ROUTE_TYPES = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_ROUTE_NUMBERS = {name: number for number, name in _ROUTE_TYPES.items()}


# Links.


def link_of(message: Any) -> Link:
    """Read a link."""
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & IFF_UP),
        lower_up=bool(message["flags"] & _IFF_LOWER_UP),
        vxlan=_vxlan_of(info.get_attr("IFLA_INFO_DATA")) if kind == "vxlan" else None,
        master=message.get_attr("IFLA_MASTER"),
        ipvlan_mode=_ipvlan_mode_of(info.get_attr("IFLA_INFO_DATA")) if kind == "ipvlan" else None,
    )


def _ipvlan_mode_of(data: Any) -> str | None:
    """Read IFLA_IPVLAN_MODE (if_link.h)."""
    return dict(enumerate(("l2", "l3", "l3s"))).get(data.get_attr("IFLA_IPVLAN_MODE")) if data is not None else None


def _vxlan_of(data: Any) -> Vxlan | None:
    local = data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") if data is not None else None
    if local is None:
        return None
    return Vxlan(
        id=data.get_attr("IFLA_VXLAN_ID") or 0,
        port=data.get_attr("IFLA_VXLAN_PORT") or 0,
        local=ipaddress.ip_address(local),
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
    )


def link_message(index: int = 0, name: str | None = None) -> ifinfmsg:
    """Return a message about the link with that index, or name."""
    request = ifinfmsg()
    request["index"] = index
    if name is not None:
        request["attrs"] = [("IFLA_IFNAME", name)]
    return request


def vxlan_message(name: str, mac: str, mtu: int, vxlan: Vxlan) -> ifinfmsg:
    """Return the message that makes a VXLAN device."""
    local = "IFLA_VXLAN_LOCAL6" if vxlan.local.version == 6 else "IFLA_VXLAN_LOCAL"
    data = [
        ("IFLA_VXLAN_ID", vxlan.id),
        (local, str(vxlan.local)),
        ("IFLA_VXLAN_PORT", vxlan.port),
        ("IFLA_VXLAN_LEARNING", int(vxlan.learning)),
    ]
    attrs = [("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_ADDRESS", mac)]
    return _of_kind("vxlan", data, attrs)


def wireguard_message(name: str, mtu: int) -> ifinfmsg:
    """Return the message that makes a WireGuard device."""
    return _of_kind("wireguard", [], [("IFLA_IFNAME", name), ("IFLA_MTU", mtu)])


def veth_message(name: str, peer: str) -> ifinfmsg:
    """Return the message that makes a pair of interfaces, each of which hears what the other one sends: veth(4)."""
    return _of_kind("veth", [("VETH_INFO_PEER", {"attrs": [("IFLA_IFNAME", peer)]})], [("IFLA_IFNAME", name)])


def macvlan_message(name: str, parent: Link, mode: MacvlanMode, netns: int) -> ifinfmsg:
    """Return the message that makes a macvlan on ``parent``, in the network namespace of the descriptor ``netns``."""
    attrs = [
        ("IFLA_IFNAME", name),
        ("IFLA_LINK", parent.index),
        ("IFLA_MTU", parent.mtu),
        ("IFLA_NET_NS_FD", netns),
    ]
    return _of_kind("macvlan", [("IFLA_MACVLAN_MODE", mode.value)], attrs)


def _of_kind(kind: str, data: list[tuple[str, Any]], attrs: list[tuple[str, Any]]) -> ifinfmsg:
    request = ifinfmsg()
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data:
        info.append(("IFLA_INFO_DATA", {"attrs": data}))
    request["attrs"] = [*attrs, ("IFLA_LINKINFO", {"attrs": info})]
    return request


# Addresses.


def address_of(message: Any, names: dict[int, str]) -> LinkAddress | None:
    """Read an address; None for other families than IP. ``names`` are those of the links by index."""
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    if text is None or message["family"] not in FAMILIES:
        return None
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return LinkAddress(
        names.get(message["index"], ""),
        ipaddress.ip_interface(f"{text}/{message['prefixlen']}"),
        global_scope=message["scope"] == _SCOPE_UNIVERSE,
        label=message.get_attr("IFA_LABEL") or "",
        protocol=message.get_attr("IFA_PROTO") or 0,
        preferred=not flags & _IFA_F_DEPRECATED,
        tentative=bool(flags & _IFA_F_TENTATIVE) and not flags & _IFA_F_DADFAILED,
        duplicate=bool(flags & _IFA_F_DADFAILED),
        dynamic=not flags & _IFA_F_PERMANENT,
    )


def address_message(link: Link, item: LinkAddress) -> ifaddrmsg:
    """Return a message about an address, without the kernel's own duplicate address detection.

    One that is not ``preferred`` is deprecated from the start: the kernel never chooses it as a source.
    """
    request = ifaddrmsg()
    request["family"] = AF[family_of(item.address)]
    request["index"] = link.index
    request["prefixlen"] = item.address.network.prefixlen
    request["scope"] = _SCOPE_UNIVERSE if item.global_scope else _SCOPE_HOST
    request["flags"] = _IFA_F_NODAD if item.address.version == 6 else 0
    text = str(item.address.ip)
    request["attrs"] = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
    if item.label:
        request["attrs"].append(("IFA_LABEL", item.label))
    if item.protocol:
        request["attrs"].append(("IFA_PROTO", item.protocol))
    if not item.preferred or item.lifetime is not None:
        # Seconds. The kernel looks at the end of an IPv4 address only where the preferred lifetime has one, too.
        valid = _FOREVER if item.lifetime is None else item.lifetime
        life = {"ifa_preferred": valid if item.preferred else 0, "ifa_valid": valid, "cstamp": 0, "tstamp": 0}
        request["attrs"].append(("IFA_CACHEINFO", life))
    return request


# Routes.


def routes_of(message: Any, names: dict[int, str]) -> tuple[Route, ...]:
    """Read a route: one for each of its equal-cost paths. (Two IPv6 routes of one metric are such paths to the kernel,
    wherever they lead.)

    Nothing for what no program has made (multicast, cached ones) and for types that we do not know.
    """
    family = FAMILIES.get(message["family"])
    type_ = _ROUTE_TYPES.get(message["type"])
    if family is None or type_ is None or message["flags"] & _RTM_F_CLONED:
        return ()
    metrics = message.get_attr("RTA_METRICS")
    index = message.get_attr("RTA_OIF")
    hops = message.get_attr("RTA_MULTIPATH")
    paths = [(index, message.get_attr("RTA_GATEWAY"))]
    if hops and index is None:
        paths = [(hop["oif"], hop.get_attr("RTA_GATEWAY") if hasattr(hop, "get_attr") else None) for hop in hops]
    return tuple(
        Route(
            family=family,
            table=message.get_attr("RTA_TABLE") or message["table"],
            destination=_network(message.get_attr("RTA_DST"), message["dst_len"], family),
            interface=names.get(out) if type_ == "unicast" and out else None,
            gateway=_address(gateway),
            source=_address(message.get_attr("RTA_PREFSRC")),
            metric=message.get_attr("RTA_PRIORITY") or 0,
            type=type_,
            mtu=metrics.get_attr("RTAX_MTU") if metrics else None,
            protocol=message["proto"],
        )
        for out, gateway in paths
    )


def route_message(route: Route, index: int | None, *, remove: bool = False) -> rtmsg:
    """Return a message about a route out of the interface with that index."""
    request = rtmsg()
    request["family"] = AF[route.family]
    request["dst_len"] = route.destination.prefixlen
    request["table"] = route.table if route.table < 256 else _COMPAT_TABLE
    request["proto"] = route.protocol
    request["type"] = _ROUTE_NUMBERS[route.type]
    if remove:
        request["scope"] = _SCOPE_NOWHERE
    elif route.family == Family.IPV6 or route.gateway or route.type != "unicast":
        request["scope"] = _SCOPE_UNIVERSE
    else:
        request["scope"] = _SCOPE_LINK
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
    if route.lifetime is not None and not remove:
        attrs.append(("RTA_EXPIRES", struct.pack("=I", route.lifetime)))
    request["attrs"] = attrs
    return request


def routes_request(family: Family, protocol: int | None = None) -> rtmsg:
    """Return the question for the routes of a family, of those of one protocol."""
    request = rtmsg()
    request["family"] = AF[family]
    if protocol is not None:
        request["proto"] = protocol
    return request


# Policy rules.


def rule_of(message: Any, family: Family) -> PolicyRule:
    """Read a policy rule."""
    source, mask = message.get_attr("FRA_SRC"), message.get_attr("FRA_FWMASK")
    return PolicyRule(
        family=family,
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        source=_network(source, message["src_len"], family) if source else None,
        in_interface=message.get_attr("FRA_IIFNAME"),
        mark=message.get_attr("FRA_FWMARK"),
        protocol=message.get_attr("FRA_PROTOCOL") or 0,
        mask=None if mask == _ALL_BITS else mask,
        inverted=bool(message["flags"] & _FIB_RULE_INVERT),
    )


def rule_message(rule: PolicyRule) -> fibmsg:
    """Return a message about a policy rule."""
    request = fibmsg()
    request["family"] = AF[rule.family]
    request["table"] = rule.table if rule.table < 256 else _COMPAT_TABLE
    request["action"] = _FR_ACT_TO_TBL
    request["flags"] = _FIB_RULE_INVERT if rule.inverted else 0
    attrs: list[tuple[str, object]] = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_TABLE", rule.table),
        ("FRA_PROTOCOL", rule.protocol),
    ]
    if rule.source is not None:
        request["src_len"] = rule.source.prefixlen
        attrs.append(("FRA_SRC", str(rule.source.network_address)))
    if rule.in_interface is not None:
        attrs.append(("FRA_IIFNAME", rule.in_interface))
    if rule.mark is not None:
        attrs.append(("FRA_FWMARK", rule.mark))
    if rule.mask is not None:
        attrs.append(("FRA_FWMASK", rule.mask))
    request["attrs"] = attrs
    return request


def rules_request(family: Family) -> fibmsg:
    """Return the question for the policy rules of a family."""
    request = fibmsg()
    request["family"] = AF[family]
    return request


# Neighbours and forwarding entries.


def neighbours_request(link: Link, af: int) -> ndmsg:
    """Return the question for the neighbours, or with AF_BRIDGE the forwarding entries, of a link."""
    request = ndmsg()
    request["family"] = af
    if af != AF_BRIDGE:
        request["attrs"] = [("NDA_IFINDEX", link.index)]
    return request


def neighbour_of(message: Any, link: Link) -> Neighbour | ForwardingEntry | None:
    """Read an entry of ``link``; None for those of others, and for those that the kernel itself has learnt."""
    if message["ifindex"] != link.index or not message["state"] & _NUD_PERMANENT:
        return None
    mac, target = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
    if mac is None or target is None:
        return None
    address = ipaddress.ip_address(target)
    return ForwardingEntry(mac, address) if message["family"] == AF_BRIDGE else Neighbour(address, mac)


def neighbour_message(link: Link, entry: Neighbour | ForwardingEntry) -> ndmsg:
    """Return a message about a permanent entry of ``link``."""
    request = ndmsg()
    request["ifindex"] = link.index
    if isinstance(entry, ForwardingEntry):
        request["family"], request["state"], request["flags"] = AF_BRIDGE, _NUD_PERMANENT | _NUD_NOARP, _NTF_SELF
        target = entry.destination
    else:
        request["family"], request["state"] = AF[family_of(entry.address)], _NUD_PERMANENT
        target = entry.address
    request["attrs"] = [("NDA_DST", str(target)), ("NDA_LLADDR", entry.mac)]
    return request


def resolve_message(link: Link, address: Address) -> ndmsg:
    """Return a message that has the kernel use an entry of ``link`` that it learns itself, and so ask for it."""
    request = ndmsg()
    request["ifindex"], request["family"], request["flags"] = link.index, AF[family_of(address)], _NTF_USE
    request["attrs"] = [("NDA_DST", str(address))]
    return request


def _address(text: str | None) -> Address | None:
    return ipaddress.ip_address(text) if text else None


def _network(text: str | None, length: int, family: Family) -> Network:
    return ipaddress.ip_network(f"{text}/{length}") if text else ANY[family]
