"""A policy as values: an ordered list of destinations, the first that matches decides.

Addresses are integers of 128 bits throughout: an IPv4 address stands where its mapped form ``::ffff:a.b.c.d``
(RFC 4291, 2.5.5.2) does, so that both spellings are one address, as they are to Squid and to the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from egress_router.config.embedded_ipv4 import CLOSED_IPV4, CLOSED_IPV6, NAT64_LOCAL, TEREDO

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

    An IPv6 network wide enough to hold the mapped block does not mean IPv4: see ``ranges.spans``.
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
    """One line: its 1-based number in the text, what it decides about which host at which ports, its text, and the
    place of its section in ``Policy.sections``.
    """

    number: int
    decision: Decision
    target: Name | Block | Anything
    ports: Ports
    text: str
    section: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """Whom the lines below a head are for: clients in ``networks``, everybody where that is None.

    ``number`` and ``text`` are the head's; 0 and "" for the lines before any head.
    """

    number: int = 0
    networks: tuple[Block, ...] | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The lines in order, and the sections that they stand in. ``variable`` is the variable they were read from."""

    lines: tuple[PolicyLine, ...]
    variable: str = "EGRESS_HTTP_PROXY_DESTINATION"
    sections: tuple[Section, ...] = (Section(),)


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
