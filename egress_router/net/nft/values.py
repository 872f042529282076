"""nftables as values: tables, chains, sets, and the values of its types in the words of nft(8) and in the bytes of the
kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv6Address
from typing import NamedTuple

from egress_router.net.netlink import attribute, attributes

# One nftables table as values: named sets and maps with their elements, and chains with their rules.


@dataclass(frozen=True, slots=True)
class NftSet:
    """A named set or map. ``header`` is its ``type``/``flags``/``counter`` lines; ``elements`` maps key to value
    (None in a set), both in the words of nft(8).
    """

    kind: str
    name: str
    header: tuple[str, ...]
    elements: dict[str, str | None] = field(default_factory=dict)

    @property
    def interval(self) -> bool:
        """Whether its keys are ranges."""
        return "flags interval" in self.header


@dataclass(frozen=True, slots=True)
class SetChange:
    """Elements that leave and enter a set; one that gets another value does both. ``item`` is the set as it becomes."""

    item: NftSet
    removed: dict[str, str | None]
    added: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain; ``hook`` is its ``type … hook …`` line, None for a chain that others jump to."""

    name: str
    hook: str | None
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table: what it is called (``inet egress_router``), its sets and its chains, in order."""

    name: str
    sets: tuple[NftSet, ...]
    chains: tuple[NftChain, ...]


# Values of nftables' types: in the words of nft(8), and in the bytes of the kernel.

#: The type whose values are attributes; of verdicts there is ``goto CHAIN`` alone.
VERDICT = "verdict"
_CODE, _CHAIN, _GOTO = 1, 2, -4
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_NUMBERS = {name: bytes([number]) for number, name in _PROTOCOLS.items()}


class Codec(NamedTuple):
    """Turns the bytes of a (concatenated) type into words, and words into bytes. ``size`` is in bytes."""

    size: int
    read: Callable[[bytes], str]
    write: Callable[[str], bytes]

    def first_and_after(self, text: str) -> tuple[bytes, bytes | None]:
        """Return where an interval (``80``, ``80-90``, ``203.0.113.0/24``) starts, and where the next could; None for
        one that goes to the end.
        """
        if "/" in text:
            address, _, length = text.partition("/")
            first = self.write(address)
            end = int.from_bytes(first) + (1 << self.size * 8 - int(length))
        elif "-" in text:
            low, _, high = text.partition("-")
            first = self.write(low)
            end = int.from_bytes(self.write(high)) + 1
        else:
            first = self.write(text)
            end = int.from_bytes(first) + 1
        return first, None if end >> self.size * 8 else end.to_bytes(self.size)

    def interval(self, first: bytes, after: bytes | None) -> str:
        """Return the words for what ``first_and_after`` took apart."""
        low = int.from_bytes(first)
        high = int.from_bytes(after) if after is not None else 1 << self.size * 8
        size = high - low
        if size == 1:
            return self.read(first)
        if self.size > 2 and size & (size - 1) == 0 and low % size == 0:
            return f"{self.read(first)}/{self.size * 8 - size.bit_length() + 1}"
        return f"{self.read(first)}-{self.read((high - 1).to_bytes(self.size))}"


@cache
def codec(types: str) -> Codec | None:
    """Return the codec of a type such as ``inet_proto . inet_service``; None for one that is not known.

    The parts of a concatenation are padded to four bytes.
    """
    parts = [_CODECS.get(part) for part in types.split(" . ")]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if len(known) == 1:
        return known[0]
    widths = [(part.size + 3) & ~3 for part in known]
    starts = [sum(widths[:at]) for at in range(len(known))]
    readers = [(part.read, start) for part, start in zip(known, starts, strict=True)]
    writers = [(part.write, bytes(width - part.size)) for part, width in zip(known, widths, strict=True)]
    if len(known) == 2:
        # By far the most frequent one, without a loop.
        (first, _), (second, start) = readers
        (one, gap), (other, last) = writers

        def write(text: str) -> bytes:
            left, _, right = text.partition(" . ")
            return one(left) + gap + other(right) + last

        return Codec(sum(widths), lambda data: f"{first(data)} . {second(data[start:])}", write)
    return Codec(
        sum(widths),
        lambda data: " . ".join([read(data[start:]) for read, start in readers]),
        lambda text: b"".join(
            [write(word) + gap for (write, gap), word in zip(writers, text.split(" . "), strict=True)]
        ),
    )


def _ipv4(data: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, data[:4])


def _ipv6(data: bytes) -> str:
    text = socket.inet_ntop(socket.AF_INET6, data[:16])
    # The C library writes some of them with an IPv4 address at the end, nobody else here does.
    return str(IPv6Address(data[:16])) if "." in text else text


def _verdict(data: bytes) -> str:
    """Read NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN."""
    found = {type_: data[start:stop] for type_, start, stop in attributes(data, 0, len(data))}
    chain = found.get(_CHAIN, b"").partition(b"\0")[0].decode()
    code = int.from_bytes(found[_CODE], signed=True)
    return f"goto {chain}" if code == _GOTO else f"{code} {chain}"


def _to_verdict(text: str) -> bytes:
    chain = text.removeprefix("goto ").encode() + b"\0"
    return attribute(_CODE, _GOTO.to_bytes(4, signed=True)) + attribute(_CHAIN, chain)


_CODECS = {
    VERDICT: Codec(0, _verdict, _to_verdict),
    "inet_service": Codec(2, lambda data: str(data[0] << 8 | data[1]), lambda text: int(text).to_bytes(2)),
    "inet_proto": Codec(1, lambda data: _PROTOCOLS.get(data[0]) or str(data[0]), _NUMBERS.__getitem__),
    "ipv4_addr": Codec(4, _ipv4, lambda text: socket.inet_pton(socket.AF_INET, text)),
    "ipv6_addr": Codec(16, _ipv6, lambda text: socket.inet_pton(socket.AF_INET6, text)),
}
