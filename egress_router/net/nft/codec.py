"""Values of nftables' types: in the words of nft(8), and in the bytes of the kernel."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from functools import cache
from ipaddress import IPv6Address

from egress_router.net.netlink import attribute, attributes
from egress_router.records import dataclass

#: The type whose values are attributes; of verdicts there are ``goto CHAIN`` and ``jump CHAIN``.
VERDICT = "verdict"
_CODE, _CHAIN = 1, 2
#: linux/netfilter/nf_tables.h, enum nft_verdicts.
_WORDS = {-3: "jump", -4: "goto"}
_CODES = {word: code for code, word in _WORDS.items()}
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_NUMBERS = {name: bytes([number]) for number, name in _PROTOCOLS.items()}


@dataclass(frozen=True, slots=True)
class Codec:
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
    parts = [_CODECS.get(part) or _raw(part) for part in types.split(" . ")]
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


def _raw(type_: str) -> Codec | None:
    """Return the codec of raw bytes such as ``@th,64,128``: hexadecimal digits; None for anything else."""
    if not type_.startswith("@"):
        return None
    size = int(type_.rpartition(",")[2]) // 8
    return Codec(size, lambda data: f"0x{data[:size].hex()}", lambda text: bytes.fromhex(text.removeprefix("0x")))


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
    return f"{_WORDS.get(code, code)} {chain}"


def _to_verdict(text: str) -> bytes:
    word, _, chain = text.partition(" ")
    code = _CODES[word].to_bytes(4, signed=True)
    return attribute(_CODE, code) + attribute(_CHAIN, chain.encode() + b"\0")


def _mark(data: bytes) -> str:
    return f"0x{int.from_bytes(data[:4], sys.byteorder):08x}"


_CODECS = {
    VERDICT: Codec(0, _verdict, _to_verdict),
    "mark": Codec(4, _mark, lambda text: int(text, 16).to_bytes(4, sys.byteorder)),
    "inet_service": Codec(2, lambda data: str(data[0] << 8 | data[1]), lambda text: int(text).to_bytes(2)),
    "inet_proto": Codec(1, lambda data: _PROTOCOLS.get(data[0]) or str(data[0]), _NUMBERS.__getitem__),
    "ipv4_addr": Codec(4, _ipv4, lambda text: socket.inet_pton(socket.AF_INET, text)),
    "ipv6_addr": Codec(16, _ipv6, lambda text: socket.inet_pton(socket.AF_INET6, text)),
}
