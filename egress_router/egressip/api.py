"""The objects that egress IPs are decided from, what is decided, and addresses as keys.

An address has two forms. Text, as it is written, in objects and in everything that is shown or loaded: a malformed one
must be reported, not lost. A key, an integer that sorts and hashes fast, inside the decision, which compares addresses
of ten thousand namespaces: IPv4 first, then IPv6, each by value. ``address_key`` and ``address_text`` are the only ways
from one to the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class NetNamespace:
    """A namespace and the egress IPs it lists, in its order of preference. ``excepted`` are the networks that its pods
    reach directly, as ``except_network`` returns them. ``pool``: where its egress IPs are given from; until there are
    some nothing leaves. ``node_ip``: while there is no usable one, pods leave as without egress IPs (``NodeIP``).
    """

    name: str
    netid: int
    egress_ips: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()
    pool: str = ""
    node_ip: bool = False


@dataclass(frozen=True, slots=True)
class HostSubnet:
    """A node: its address, pod subnet, the egress IPs it holds by hand and the CIDRs it may be given IPs from.

    ``capacity`` is the number of egress IPs that it can hold at most (None: no limit). ``interface_subnets``
    are the subnets of its outside interface; empty means that the objects do not tell, and the node's agent
    checks the real interface.
    """

    name: str
    host_ip: str
    subnet: str = ""
    egress_ips: tuple[str, ...] = ()
    egress_cidrs: tuple[str, ...] = ()
    capacity: int | None = None
    interface_subnets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """A running pod with addresses of its own (not one in the node's network namespace)."""

    namespace: str
    name: str
    node: str
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterState:
    """All objects, keyed by name; pods by (namespace, name). ``assignment`` is the recorded automatic
    assignment, egress IPs by node; ``assigned_without`` are the nodes that were offline for it; ``staying`` the node
    of each address of it that is not to be moved for the balance; ``standbys`` the node of each that takes it over.
    """

    namespaces: Mapping[str, NetNamespace] = field(default_factory=dict)
    nodes: Mapping[str, HostSubnet] = field(default_factory=dict)
    pods: Mapping[tuple[str, str], Pod] = field(default_factory=dict)
    assignment: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assigned_without: tuple[str, ...] = ()
    staying: Mapping[str, str] = field(default_factory=dict)
    standbys: Mapping[str, str] = field(default_factory=dict)


def cluster_state(namespaces: Iterable[NetNamespace] = (), nodes: Iterable[HostSubnet] = ()) -> ClusterState:
    """Return a state without pods."""
    return ClusterState({n.name: n for n in namespaces}, {n.name: n for n in nodes})


class Disposition(StrEnum):
    """What happens to a namespace's traffic to the outside."""

    NORMAL = "normal"
    EGRESS = "egress"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Via:
    """One way out: a usable egress IP and the node that holds it."""

    ip: str
    node: str


@dataclass(frozen=True, slots=True)
class NamespaceDecision:
    """The verdict on one namespace. ``reasons`` say why each of its other IPs is not in ``via``. ``excepted`` are the
    networks that are reached directly whatever becomes of the rest, IPv4 first; none overlaps another. ``node_ip``: in
    a family without a usable address pods leave as without egress IPs, instead of not at all.
    """

    netid: int
    disposition: Disposition
    via: tuple[Via, ...] = ()
    reasons: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()
    node_ip: bool = False


@dataclass(frozen=True, slots=True)
class NodeDecision:
    """What one node shall have on its interface, and what is wrong with its object."""

    claims: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on the cluster. ``assignment`` holds every node that was given an IP automatically, ``standbys`` the
    node that takes such an IP over, see ``standby.with_standbys``.
    """

    namespaces: Mapping[str, NamespaceDecision]
    nodes: Mapping[str, NodeDecision]
    assignment: Mapping[str, tuple[str, ...]]
    standbys: Mapping[str, str] = field(default_factory=dict)


#: That of an assignment without standbys.
NO_STANDBYS: Mapping[str, str] = MappingProxyType({})
#: What becomes of pods while there is no usable egress IP: the words of ``whenUnavailable``, the default first.
DROP, NODE_IP = "Drop", "NodeIP"
#: Keys of IPv6 addresses start here, so every IPv4 key is smaller.
V6 = 1 << 128

IPV4_BITS = 32
IPV6_BITS = 128
#: 0.0.0.0/0 and ::/0.
_EVERYTHING = ((0, 2**IPV4_BITS - 1), (V6, V6 + 2**IPV6_BITS - 1))
_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)


def length_hint(text: str) -> str:
    """Return ": without /24" for an address with a length, where the address alone can be held; else ""."""
    address, slash, length = text.partition("/")
    return f": without /{length}" if slash and length.isdecimal() and address_key(address) is not None else ""


@lru_cache(maxsize=1 << 17)
def address_key(text: str) -> int | None:
    """Return the key of an address that a node may hold, or None when ``text`` is not one.

    Refused besides malformed text: the unspecified, loopback, link-local and multicast addresses, the IPv4
    broadcast address, IPv4-mapped IPv6 addresses (write the IPv4 address), and addresses with a zone.
    """
    try:
        parsed = ip_address(text)
    except (AddressValueError, ValueError):
        return None
    if parsed.is_unspecified or parsed.is_loopback or parsed.is_link_local or parsed.is_multicast:
        return None
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None or parsed.ipv4_mapped is not None:
            return None
        return V6 + int(parsed)
    return None if int(parsed) == 2**IPV4_BITS - 1 else int(parsed)


@lru_cache(maxsize=1 << 17)
def address_text(key: int) -> str:
    """Return the canonical text (RFC 5952 for IPv6) of a key."""
    return str(IPv6Address(key - V6)) if key >= V6 else str(IPv4Address(key))


def family(key: int) -> int:
    """Return 4 or 6."""
    return 6 if key >= V6 else 4


@lru_cache(maxsize=1 << 14)
def network_range(text: str) -> tuple[int, int] | None:
    """Return the first and last key of a CIDR, None when ``text`` is not one. Host bits are ignored, as Go's
    ``net.ParseCIDR`` (and so OpenShift) does; a CIDR needs its ``/`` and a number behind it, and has no zone.
    """
    address, slash, length = text.partition("/")
    if not slash or not _LENGTH.fullmatch(length) or "%" in address:
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    base = V6 if network.version == 6 else 0
    return base + int(network.network_address), base + int(network.broadcast_address)


def except_network(text: str) -> tuple[str, str]:
    """Return a network whose destinations are reached directly in its canonical text, and ""; or "" and what would be
    right in its place. Host bits are refused: nobody can tell whether the network is meant or the address.
    """
    if network_range(text) is None:
        address = "" if "%" in text or "/" in text else _canonical_address(text)
        length = IPV6_BITS if ":" in address else IPV4_BITS
        return "", f"{address}/{length}" if address else "a network such as 192.0.2.0/24 or 2001:db8::/32"
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        return "", "the network of the IPv4 addresses themselves"
    written = text.partition("/")[0]
    return (str(network), "") if ip_address(written) == network.network_address else ("", str(network))


def _canonical_address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def pod_ranges(subnet: str) -> list[tuple[int, int]]:
    """Return the ranges of a node's pod subnet, CIDRs with commas between them; without those that are none, and
    without one that holds every address.
    """
    spans = (network_range(part.strip()) for part in subnet.split(","))
    return [span for span in spans if span is not None and span not in _EVERYTHING]


def networks_of(ranges: Iterable[tuple[int, int]]) -> list[str]:
    """Return the CIDRs, as canonical text, that hold exactly the keys of the ranges; none overlaps another."""
    by_version: dict[int, list[IPv4Network | IPv6Network]] = {4: [], 6: []}
    for first, last in ranges:
        ends = (
            (IPv6Address(first - V6), IPv6Address(last - V6))
            if first >= V6
            else (IPv4Address(first), IPv4Address(last))
        )
        by_version[family(first)] += summarize_address_range(*ends)
    return [str(network) for found in by_version.values() for network in collapse_addresses(found)]  # type: ignore[type-var]


def host_range(text: str) -> tuple[int, int] | None:
    """Return the first and last key in a subnet that a host may hold: without the network and broadcast
    address of an IPv4 subnet up to /30, without the subnet-router anycast address of an IPv6 subnet (RFC 4291,
    section 2.6.1). None when ``text`` is not a CIDR.
    """
    both = network_range(text)
    if both is None:
        return None
    first, last = both
    if first >= V6:
        return (first + 1, last) if last - first > 1 else both
    return (first + 1, last - 1) if last - first > 1 else both
