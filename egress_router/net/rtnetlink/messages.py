"""Values ↔ rtnetlink messages: one encoder and one decoder of each. See rtnetlink(7), linux/rtnetlink.h, if_link.h,
if_addr.h, fib_rules.h, neighbour.h.

What is sent is a body: the family's own head and attributes. What is read is a whole message, netlink's head included.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from egress_router.config.values import ANY, Address, Family, Network, family_of
from egress_router.net.netlink import HEAD_BYTES, NLA_F_NESTED, attribute, attribute_values
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

#: Family, type, index, flags, which flags change.
_LINK = struct.Struct("=BxHiII")
#: Family, prefix length, flags, scope, index of the link.
_ADDRESS = struct.Struct("=BBBBI")
#: Family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
_ROUTE = struct.Struct("=BBBBBBBBI")
#: Family, lengths of destination and source, TOS, table, (2) action, flags.
_RULE = struct.Struct("=BBBBBxxBI")
#: Family, index of the link, state, flags, type.
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
#: Length, flags, hops, index of the link.
_NEXT_HOP = struct.Struct("=HBBi")
_U16, _U32, _PORT = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("!H")

IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 28, 29
_RTEXT_FILTER_SKIP_STATS = 8
_INFO_KIND, _INFO_DATA = 1, 2
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17
_MACVLAN_MODE, _IPVLAN_MODE = 1, 1
_MACVLAN_MODES = {
    MacvlanMode.PRIVATE: 1,
    MacvlanMode.VEPA: 2,
    MacvlanMode.BRIDGE: 4,
    MacvlanMode.PASSTHRU: 8,
}
_IPVLAN_MODES = {0: "l2", 1: "l3", 2: "l3s"}
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 3, 6, 8, 11
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS, _RTA_MULTIPATH = 1, 4, 5, 6, 7, 8, 9
_RTA_TABLE, _RTA_EXPIRES, _RTAX_MTU = 15, 23, 2
_FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 2, 3, 6, 10, 15, 16, 21
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8

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
_NTF_SELF = 0x02
_ROUTE_TYPES = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_ROUTE_NUMBERS = {name: number for number, name in _ROUTE_TYPES.items()}


# Links.


def link_of(message: bytes) -> Link:
    """Read a link."""
    _, _, index, flags, _ = _LINK.unpack_from(message, HEAD_BYTES)
    found = attribute_values(message, HEAD_BYTES + _LINK.size)
    info = attribute_values(found.get(_IFLA_LINKINFO, b""))
    kind = _text(info.get(_INFO_KIND)) or ""
    data = info.get(_INFO_DATA)
    return Link(
        index=index,
        name=_text(found[_IFLA_IFNAME]) or "",
        kind=kind,
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(_IFLA_MTU)) or 0,
        up=bool(flags & IFF_UP),
        lower_up=bool(flags & _IFF_LOWER_UP),
        vxlan=_vxlan_of(data) if kind == "vxlan" and data is not None else None,
        master=_number(found.get(_IFLA_MASTER)),
        ipvlan_mode=_ipvlan_mode_of(data) if kind == "ipvlan" and data is not None else None,
    )


def _ipvlan_mode_of(data: bytes) -> str | None:
    """Read IFLA_IPVLAN_MODE (if_link.h)."""
    mode = attribute_values(data).get(_IPVLAN_MODE)
    return None if mode is None else _IPVLAN_MODES.get(_U16.unpack(mode)[0])


def _vxlan_of(data: bytes) -> Vxlan | None:
    found = attribute_values(data)
    local = _address(found.get(_VXLAN_LOCAL) or found.get(_VXLAN_LOCAL6))
    if local is None:
        return None
    port = found.get(_VXLAN_PORT)
    return Vxlan(
        id=_number(found.get(_VXLAN_ID)) or 0,
        port=0 if port is None else _PORT.unpack(port)[0],
        local=local,
        learning=any(found.get(_VXLAN_LEARNING, b"")),
    )


def links_request() -> bytes:
    """Return the question for all links, without what they have counted."""
    return _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))


def link_message(index: int = 0, name: str | None = None, flags: int = 0) -> bytes:
    """Return a message about the link with that index, or name; ``flags`` are set."""
    head = _LINK.pack(0, 0, index, flags, flags)
    return head if name is None else head + _string(_IFLA_IFNAME, name)


def vxlan_message(name: str, mac: str, mtu: int, vxlan: Vxlan) -> bytes:
    """Return the message that makes a VXLAN device."""
    local = _VXLAN_LOCAL6 if vxlan.local.version == 6 else _VXLAN_LOCAL
    data = (
        _u32(_VXLAN_ID, vxlan.id)
        + attribute(local, vxlan.local.packed)
        + attribute(_VXLAN_PORT, _PORT.pack(vxlan.port))
        + attribute(_VXLAN_LEARNING, bytes([vxlan.learning]))
    )
    attributes = _string(_IFLA_IFNAME, name) + _u32(_IFLA_MTU, mtu) + attribute(_IFLA_ADDRESS, _mac(mac))
    return _of_kind("vxlan", data, attributes)


def wireguard_message(name: str, mtu: int) -> bytes:
    """Return the message that makes a WireGuard device."""
    return _of_kind("wireguard", b"", _string(_IFLA_IFNAME, name) + _u32(_IFLA_MTU, mtu))


def macvlan_message(name: str, parent: Link, mode: MacvlanMode, netns: int) -> bytes:
    """Return the message that makes a macvlan on ``parent``, in the network namespace of the descriptor ``netns``."""
    attributes = (
        _string(_IFLA_IFNAME, name)
        + _u32(_IFLA_LINK, parent.index)
        + _u32(_IFLA_MTU, parent.mtu)
        + _u32(_IFLA_NET_NS_FD, netns)
    )
    return _of_kind("macvlan", _u32(_MACVLAN_MODE, _MACVLAN_MODES[mode]), attributes)


def _of_kind(kind: str, data: bytes, attributes: bytes) -> bytes:
    info = attribute(_INFO_KIND, kind.encode())
    if data:
        info += attribute(_INFO_DATA | NLA_F_NESTED, data)
    return link_message() + attributes + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)


# Addresses.


def addresses_request(index: int = 0) -> bytes:
    """Return the question for the addresses of a link, or of all."""
    return _ADDRESS.pack(0, 0, 0, 0, index)


def address_of(message: bytes, names: dict[int, str]) -> LinkAddress | None:
    """Read an address; None for other families than IP. ``names`` are those of the links by index."""
    family, length, flags, scope, index = _ADDRESS.unpack_from(message, HEAD_BYTES)
    found = attribute_values(message, HEAD_BYTES + _ADDRESS.size)
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if packed is None or family not in FAMILIES:
        return None
    flags = _number(found.get(_IFA_FLAGS)) or flags
    kind = IPv4Interface if FAMILIES[family] is Family.IPV4 else IPv6Interface
    return LinkAddress(
        names.get(index, ""),
        kind((packed, length)),
        global_scope=scope == _SCOPE_UNIVERSE,
        label=_text(found.get(_IFA_LABEL)) or "",
        protocol=found.get(_IFA_PROTO, b"\0")[0],
        preferred=not flags & _IFA_F_DEPRECATED,
        tentative=bool(flags & _IFA_F_TENTATIVE) and not flags & _IFA_F_DADFAILED,
        duplicate=bool(flags & _IFA_F_DADFAILED),
        dynamic=not flags & _IFA_F_PERMANENT,
    )


def address_message(link: Link, item: LinkAddress) -> bytes:
    """Return a message about an address, without the kernel's own duplicate address detection.

    One that is not ``preferred`` is deprecated from the start: the kernel never chooses it as a source.
    """
    flags = _IFA_F_NODAD if item.address.version == 6 else 0
    scope = _SCOPE_UNIVERSE if item.global_scope else _SCOPE_HOST
    request = _ADDRESS.pack(AF[family_of(item.address)], item.address.network.prefixlen, flags, scope, link.index)
    packed = item.address.ip.packed
    request += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if item.label:
        request += _string(_IFA_LABEL, item.label)
    if item.protocol:
        request += attribute(_IFA_PROTO, bytes([item.protocol]))
    if not item.preferred or item.lifetime is not None:
        valid = _FOREVER if item.lifetime is None else item.lifetime
        # Preferred and valid for so many seconds; when it was made and changed, which the kernel knows itself. It looks
        # at the end of an IPv4 address only where the preferred lifetime has one, too.
        request += attribute(_IFA_CACHEINFO, struct.pack("=IIII", valid if item.preferred else 0, valid, 0, 0))
    return request


# Routes.


def routes_of(message: bytes, names: dict[int, str]) -> tuple[Route, ...]:
    """Read a route: one for each of its equal-cost paths. (Two IPv6 routes of one metric are such paths to the kernel,
    wherever they lead.)

    Nothing for what no program has made (multicast, cached ones) and for types that we do not know.
    """
    af, length, _, _, table, protocol, _, number, flags = _ROUTE.unpack_from(message, HEAD_BYTES)
    family = FAMILIES.get(af)
    type_ = _ROUTE_TYPES.get(number)
    if family is None or type_ is None or flags & _RTM_F_CLONED:
        return ()
    found = attribute_values(message, HEAD_BYTES + _ROUTE.size)
    index = _number(found.get(_RTA_OIF))
    paths = [(index, found.get(_RTA_GATEWAY))]
    if index is None and _RTA_MULTIPATH in found:
        paths = _next_hops(found[_RTA_MULTIPATH])
    metrics = attribute_values(found.get(_RTA_METRICS, b""))
    return tuple(
        Route(
            family=family,
            table=_number(found.get(_RTA_TABLE)) or table,
            destination=_network(found.get(_RTA_DST), length, family),
            interface=names.get(out) if type_ == "unicast" and out else None,
            gateway=_address(gateway),
            source=_address(found.get(_RTA_PREFSRC)),
            metric=_number(found.get(_RTA_PRIORITY)) or 0,
            type=type_,
            mtu=_number(metrics.get(_RTAX_MTU)),
            protocol=protocol,
        )
        for out, gateway in paths
    )


def _next_hops(data: bytes) -> list[tuple[int | None, bytes | None]]:
    """Return the link's index and the gateway of each path of RTA_MULTIPATH (struct rtnexthop)."""
    found: list[tuple[int | None, bytes | None]] = []
    at = 0
    while at + _NEXT_HOP.size <= len(data):
        length, _, _, index = _NEXT_HOP.unpack_from(data, at)
        found.append((index, attribute_values(data, at + _NEXT_HOP.size, at + length).get(_RTA_GATEWAY)))
        at += max(_NEXT_HOP.size, (length + 3) & ~3)
    return found


def route_message(route: Route, index: int | None, *, remove: bool = False) -> bytes:
    """Return a message about a route out of the interface with that index."""
    if remove:
        scope = _SCOPE_NOWHERE
    elif route.family == Family.IPV6 or route.gateway or route.type != "unicast":
        scope = _SCOPE_UNIVERSE
    else:
        scope = _SCOPE_LINK
    request = _ROUTE.pack(
        AF[route.family],
        route.destination.prefixlen,
        0,
        0,
        route.table if route.table < 256 else _COMPAT_TABLE,
        route.protocol,
        scope,
        _ROUTE_NUMBERS[route.type],
        # The gateway may be in no connected prefix (a /32 source, a point-to-point CNI).
        0 if route.gateway is None else _RTNH_F_ONLINK,
    )
    request += _u32(_RTA_TABLE, route.table)
    if not route.is_default:
        request += attribute(_RTA_DST, route.destination.network_address.packed)
    if index is not None:
        request += _u32(_RTA_OIF, index)
    if route.gateway is not None:
        request += attribute(_RTA_GATEWAY, route.gateway.packed)
    if route.source is not None:
        request += attribute(_RTA_PREFSRC, route.source.packed)
    if route.metric:
        request += _u32(_RTA_PRIORITY, route.metric)
    if route.mtu is not None:
        request += attribute(_RTA_METRICS | NLA_F_NESTED, _u32(_RTAX_MTU, route.mtu))
    if route.lifetime is not None and not remove:
        request += _u32(_RTA_EXPIRES, route.lifetime)
    return request


def routes_request(family: Family, protocol: int | None = None) -> bytes:
    """Return the question for the routes of a family, of those of one protocol."""
    return _ROUTE.pack(AF[family], 0, 0, 0, 0, protocol or 0, 0, 0, 0)


# Policy rules.


def rule_of(message: bytes, family: Family) -> PolicyRule:
    """Read a policy rule."""
    _, _, length, _, table, _, flags = _RULE.unpack_from(message, HEAD_BYTES)
    found = attribute_values(message, HEAD_BYTES + _RULE.size)
    source, mask = found.get(_FRA_SRC), _number(found.get(_FRA_FWMASK))
    return PolicyRule(
        family=family,
        priority=_number(found.get(_FRA_PRIORITY)) or 0,
        table=_number(found.get(_FRA_TABLE)) or table,
        source=_network(source, length, family) if source else None,
        in_interface=_text(found.get(_FRA_IIFNAME)),
        mark=_number(found.get(_FRA_FWMARK)),
        protocol=found.get(_FRA_PROTOCOL, b"\0")[0],
        mask=None if mask == _ALL_BITS else mask,
        inverted=bool(flags & _FIB_RULE_INVERT),
    )


def rule_message(rule: PolicyRule) -> bytes:
    """Return a message about a policy rule."""
    request = _RULE.pack(
        AF[rule.family],
        0,
        0 if rule.source is None else rule.source.prefixlen,
        0,
        rule.table if rule.table < 256 else _COMPAT_TABLE,
        _FR_ACT_TO_TBL,
        _FIB_RULE_INVERT if rule.inverted else 0,
    )
    request += _u32(_FRA_PRIORITY, rule.priority) + _u32(_FRA_TABLE, rule.table)
    request += attribute(_FRA_PROTOCOL, bytes([rule.protocol]))
    if rule.source is not None:
        request += attribute(_FRA_SRC, rule.source.network_address.packed)
    if rule.in_interface is not None:
        request += _string(_FRA_IIFNAME, rule.in_interface)
    if rule.mark is not None:
        request += _u32(_FRA_FWMARK, rule.mark)
    if rule.mask is not None:
        request += _u32(_FRA_FWMASK, rule.mask)
    return request


def rules_request(family: Family) -> bytes:
    """Return the question for the policy rules of a family."""
    return _RULE.pack(AF[family], 0, 0, 0, 0, 0, 0)


# Neighbours and forwarding entries.


def neighbours_request(link: Link, af: int) -> bytes:
    """Return the question for the neighbours, or with AF_BRIDGE the forwarding entries, of a link."""
    head = _NEIGHBOUR.pack(af, 0, 0, 0, 0)
    return head if af == AF_BRIDGE else head + _u32(_NDA_IFINDEX, link.index)


def neighbour_of(message: bytes, link: Link) -> Neighbour | ForwardingEntry | None:
    """Read an entry of ``link``; None for those of others, and for those that the kernel itself has learnt."""
    family, index, state, _, _ = _NEIGHBOUR.unpack_from(message, HEAD_BYTES)
    if index != link.index or not state & _NUD_PERMANENT:
        return None
    found = attribute_values(message, HEAD_BYTES + _NEIGHBOUR.size)
    mac, address = found.get(_NDA_LLADDR), _address(found.get(_NDA_DST))
    if mac is None or address is None:
        return None
    return ForwardingEntry(mac.hex(":"), address) if family == AF_BRIDGE else Neighbour(address, mac.hex(":"))


def neighbour_message(link: Link, entry: Neighbour | ForwardingEntry) -> bytes:
    """Return a message about a permanent entry of ``link``."""
    if isinstance(entry, ForwardingEntry):
        head = _NEIGHBOUR.pack(AF_BRIDGE, link.index, _NUD_PERMANENT | _NUD_NOARP, _NTF_SELF, 0)
        target = entry.destination
    else:
        head = _NEIGHBOUR.pack(AF[family_of(entry.address)], link.index, _NUD_PERMANENT, 0, 0)
        target = entry.address
    return head + attribute(_NDA_DST, target.packed) + attribute(_NDA_LLADDR, _mac(entry.mac))


# Values of attributes.


def _u32(type_: int, value: int) -> bytes:
    return attribute(type_, _U32.pack(value))


def _string(type_: int, text: str) -> bytes:
    return attribute(type_, text.encode() + b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _number(data: bytes | None) -> int | None:
    """Return an attribute of 32 bits; None where it is absent."""
    if data is None:
        return None
    value: int = _U32.unpack(data)[0]
    return value


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.partition(b"\0")[0].decode(errors="replace")


def _address(data: bytes | None) -> Address | None:
    """Return an address; None where it is absent, or of another family (MPLS)."""
    if data is None:
        return None
    if len(data) == 4:
        return IPv4Address(data)
    return IPv6Address(data) if len(data) == 16 else None


def _network(data: bytes | None, length: int, family: Family) -> Network:
    """Return a prefix. The kernel takes, and tells, those of policy rules with bits behind their length."""
    if data is None:
        return ANY[family]
    if family is Family.IPV4:
        return IPv4Network((data, length), strict=False)
    return IPv6Network((data, length), strict=False)
