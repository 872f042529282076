"""The policy of the HTTP proxy as values: lines, rules and the regions that they cover."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from typing import TypeAlias

from egress_router.config.embedded_ipv4 import CLOSED_IPV4, CLOSED_IPV6, NAT64_LOCAL, TEREDO, spellings
from egress_router.http_proxy.parent import Parent

# The policy of the HTTP proxy: an ordered list of destinations, the first that matches decides.
#
# Addresses are integers of 128 bits throughout: an IPv4 address stands where its mapped form ``::ffff:a.b.c.d``
# (RFC 4291, 2.5.5.2) does, so that both spellings are one address, as they are to Squid and to the kernel.

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: The first integer of the block ``::ffff:0:0/96`` in which IPv4 lives.
MAPPED = 0xFFFF << 32
MAX_PORT = 65535


class Decision(Enum):
    """What a line says about what it matches."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Name:
    """A host name in lower-case ASCII (IDNA A-labels); with ``subdomains`` everything under it as well."""

    name: str
    subdomains: bool = False

    def __str__(self) -> str:
        return f"*.{self.name}" if self.subdomains else self.name


@dataclass(frozen=True, slots=True)
class Block:
    """An address block; both ends belong to it.

    An IPv6 network wide enough to hold the mapped block does not mean IPv4: see ``model.http_regions.spans``.
    """

    first: int
    last: int

    @property
    def single(self) -> bool:
        """Whether it is one address."""
        return self.first == self.last

    def __str__(self) -> str:
        return "-".join(str(from_number(end)) for end in dict.fromkeys((self.first, self.last)))


@dataclass(frozen=True, slots=True)
class Anything:
    """``*``: every host."""

    def __str__(self) -> str:
        return "*"


@dataclass(frozen=True, slots=True)
class Ports:
    """A set of TCP ports as sorted, disjoint, not adjacent ranges."""

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ranges)


def merge_ports(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the same numbers as sorted, disjoint, not adjacent ranges."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


ANY_PORT = Ports(((1, MAX_PORT),))


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """One line: its 1-based number in the text, what it decides about which host at which ports, and its text."""

    number: int
    decision: Decision
    target: Name | Block | Anything
    ports: Ports
    text: str


@dataclass(frozen=True, slots=True)
class HttpPolicy:
    """The lines in order. ``variable`` is the variable they were read from."""

    lines: tuple[PolicyLine, ...]
    variable: str = "EGRESS_HTTP_PROXY_DESTINATION"


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Everything about the proxy that is not the policy. ``grace`` in seconds; ``sources`` one per family.

    ``workers`` are the Squids that share the work (None: as many as there are processors for them), ``health_port`` is
    None for none. ``idle_timeout`` in seconds. ``ipv6_clients``: listen on IPv6 though nothing leaves by it.
    ``parent``: the proxy that requests go on to.
    """

    port: int = 8080
    connect_ports: Ports = ANY_PORT
    max_clients: int = 4096
    workers: int | None = None
    access_log: bool = True
    grace: float = 30.0
    sources: tuple[Address, ...] = ()
    health_port: int | None = None
    idle_timeout: int = 900
    ipv6_clients: bool = False
    parent: Parent | None = None


def to_number(address: Address) -> int:
    """Return the place of an address among the 128-bit integers."""
    return int(address) + (MAPPED if isinstance(address, IPv4Address) else 0)


def from_number(number: int) -> Address:
    """Return the address at a place; IPv4 where it is in the mapped block."""
    if MAPPED <= number <= MAPPED + 0xFFFFFFFF:
        return IPv4Address(number - MAPPED)
    return IPv6Address(number)


def to_block(network: Network) -> Block:
    """Return the block of a network."""
    return Block(to_number(network.network_address), to_number(network.broadcast_address))


#: Closed also under ``*``: what leads back into the pod or to the node's and cloud's metadata services, in the forms
#: of IPv6 that carry such an IPv4 address too (``spellings``). Only a line for exactly one such address opens it.
ALWAYS_CLOSED: tuple[tuple[str, Block], ...] = (
    *((what, to_block(network)) for what, network in CLOSED_IPV4),
    *((what, to_block(network)) for what, network in CLOSED_IPV6),
    # What IPv4 address these carry is not told by a range, and no server is at the first.
    ("Teredo", to_block(TEREDO)),
    ("NAT64 with a prefix that is not known", Block(int(NAT64_LOCAL[1 << 32]), int(NAT64_LOCAL.broadcast_address))),
)

#: No destinations at all, and never opened: the unspecified addresses, which Linux connects to loopback, and the
#: broadcast address with its IPv6 look-alike. Squid sorts 0.0.0.0 and 255.255.255.255 as if they were ``::`` and
#: all ones, so they must also stay out of every range that it is given.
NOWHERE: frozenset[int] = frozenset((0, MAPPED, MAPPED + 0xFFFFFFFF, (1 << 128) - 1))


def embedding(ranges: Iterable[Span]) -> list[Span]:
    """Return the ranges of IPv6 addresses that carry an IPv4 address of some ranges."""
    inside = (
        (max(first, MAPPED) - MAPPED, min(last, MAPPED_LAST) - MAPPED)
        for first, last in ranges
        if first <= MAPPED_LAST and last >= MAPPED
    )
    return normal(span for first, last in inside for span in spellings(first, last))


# Arithmetic on sets of 128-bit addresses, kept as sorted, disjoint ranges with both ends inside.

Span = tuple[int, int]

TOP = (1 << 128) - 1
MAPPED_LAST = MAPPED + 0xFFFFFFFF


def spans(block: Block) -> list[Span]:
    """Return what a block means: a wide IPv6 network such as ``::/0`` leaves the IPv4 addresses out."""
    if block.first < MAPPED and block.last > MAPPED_LAST:
        return [(block.first, MAPPED - 1), (MAPPED_LAST + 1, block.last)]
    return [(block.first, block.last)]


def normal(ranges: Iterable[Span]) -> list[Span]:
    """Return the union of any ranges, sorted and joined where they touch (never across an edge of IPv4)."""
    joined: list[Span] = []
    for first, last in sorted(ranges):
        touching = joined and first <= joined[-1][1] + 1 and first not in (MAPPED, MAPPED_LAST + 1)
        if touching:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def complement(ranges: Iterable[Span]) -> list[Span]:
    """Return all addresses that are in none of the ranges, split at the edges of IPv4."""
    gaps: list[Span] = []
    at = 0
    for first, last in normal(ranges):
        if at < first:
            gaps.append((at, first - 1))
        at = last + 1
    if at <= TOP:
        gaps.append((at, TOP))
    return split_families(gaps)


def split_families(ranges: Iterable[Span]) -> list[Span]:
    """Return the ranges cut so that none holds IPv4 and IPv6 addresses."""
    cut: list[Span] = []
    for first, last in ranges:
        for low, high in ((0, MAPPED - 1), (MAPPED, MAPPED_LAST), (MAPPED_LAST + 1, TOP)):
            a, b = max(first, low), min(last, high)
            if a <= b:
                cut.append((a, b))
    return cut


class Claims:
    """Who claimed which addresses first. ``claim`` gives a range what of it is still free."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def claim(self, wanted: Iterable[Span]) -> list[Span]:
        """Return the parts of ``wanted`` that nobody claimed before; they are claimed now."""
        got: list[Span] = []
        for first, last in wanted:
            low = bisect_left(self._lasts, first)
            high = bisect_right(self._firsts, last)
            at = first
            for taken_first, taken_last in zip(self._firsts[low:high], self._lasts[low:high], strict=True):
                if at < taken_first:
                    got.append((at, taken_first - 1))
                at = taken_last + 1
            if at <= last:
                got.append((at, last))
            self._merge(first, last, low, high)
        return got

    def _merge(self, first: int, last: int, low: int, high: int) -> None:
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]


# The compiled policy: few rules over large sets, with the meaning of the lines taken one by one.


@dataclass(frozen=True, slots=True)
class AddressLine:
    """What one line claimed: its number (0: always closed) and its ranges."""

    number: int
    ranges: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the compiled policy; exactly one of names, addresses and everything says whom it matches.

    ``names``: sorted, a leading dot means the domain and everything under it. ``addresses``: any address of the
    host is in one of them; an allowing rule also needs that none is in ``outside``.
    """

    level: int
    decision: Decision
    ports: Ports
    names: tuple[str, ...] = ()
    addresses: tuple[AddressLine, ...] = ()
    outside: tuple[Span, ...] = ()
    everything: bool = False
    numbers: tuple[int, ...] = ()
    #: The addresses are IPv6 ones that carry an IPv4 address which the same level denies.
    embedded: bool = False

    def ranges(self) -> list[tuple[Span, int]]:
        """Return the ranges of addresses in their order, each with the number of its line."""
        return sorted((span, line.number) for line in self.addresses for span in line.ranges)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """The rules in order; what no rule matches is denied.

    ``allowed_names``: every name that some rule allows, at whatever port, when no rule allows by address or
    everything; a host that is not among them can be denied at once, without asking DNS about it. None otherwise.
    ``isatap``: addresses of ISATAP that lines open; all others are closed.
    """

    rules: tuple[Rule, ...]
    allowed_names: tuple[str, ...] | None
    isatap: tuple[Span, ...] = ()


# How large a compiled policy may become, known before it is compiled.

#: More different port lists on address lines than this are refused: each may need its own copy of the addresses.
MAX_PORT_LISTS = 256
#: Ranges of addresses in all sets together.
MAX_RANGES = 2_000_000
#: Each costs a rule, and Squid's start takes time with the square of them.
MAX_ALTERNATIONS = 2_000


def port_lists(policy: HttpPolicy) -> set[Ports]:
    """Return the different port lists of a policy's address lines."""
    return {line.ports for line in policy.lines if isinstance(line.target, Block)}


def alternations(policy: HttpPolicy) -> int:
    """Return how often a line has to come after one of the other kind (name, address) and the other decision."""
    count = 0
    seen: set[tuple[bool, Decision]] = set()
    for line in policy.lines:
        about_address = isinstance(line.target, Block)
        other = Decision.DENY if line.decision is Decision.ALLOW else Decision.ALLOW
        if (not about_address, other) in seen:
            count += 1
            seen.clear()
        seen.add((about_address, line.decision))
    return count


def most_ranges(policy: HttpPolicy) -> int:
    """Return how many ranges the sets of a policy hold at most.

    Every class of ports has the ranges of its lines, and once more what lies outside of them for every level that
    allows addresses. Such a level comes only after denied names that came after allowed addresses.
    """
    addresses = sum(isinstance(line.target, Block) for line in policy.lines)
    levels, allowed = 1, False
    for line in policy.lines:
        if isinstance(line.target, Block):
            allowed = allowed or line.decision is Decision.ALLOW
        elif line.decision is Decision.DENY and allowed:
            levels, allowed = levels + 1, False
    classes = len(port_classes(port_lists(policy)))
    return 2 * (addresses + len(ALWAYS_CLOSED)) * classes * (levels + 1)


def port_classes(lists: Iterable[Ports]) -> list[Ports]:
    """Return the partition of all ports into sets whose members appear in exactly the same lists."""
    unique = list(dict.fromkeys(lists))
    if all(ports == ANY_PORT for ports in unique):
        return [ANY_PORT]
    edges = {1, MAX_PORT + 1}
    for ports in unique:
        for first, last in ports.ranges:
            edges |= {first, last + 1}
    bounds = sorted(edges)
    groups: dict[tuple[bool, ...], list[tuple[int, int]]] = defaultdict(list)
    for first, after in pairwise(bounds):
        key = tuple(first in ports for ports in unique)
        ranges = groups[key]
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], after - 1)
        else:
            ranges.append((first, after - 1))
    return [Ports(tuple(ranges)) for ranges in groups.values()]
