"""Chains and entries of legacy iptables as the kernel lays them out. See linux/netfilter_ipv4/ip_tables.h."""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

from egress_router.config.values import Family
from egress_router.net.iptables.entries import Layout

# Tables of legacy iptables as the kernel has them: one block of entries each, read and replaced as a whole.
#
# See linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h: struct ipt_getinfo, ipt_get_entries,
# ipt_replace, xt_counters_info.

TABLES = ("filter", "mangle", "nat")
_GET_INFO, _GET_ENTRIES = 64, 65
_SET_REPLACE, _SET_ADD_COUNTERS = 64, 65
_LEVELS = {Family.IPV4: (socket.AF_INET, socket.IPPROTO_IP), Family.IPV6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
#: Name, valid hooks, five entry points, five underflows, number of entries, their size.
_INFO = struct.Struct("=32sI5I5III")
#: Name and size; the entries are aligned to eight bytes.
_ENTRIES = struct.Struct("=32sI4x")
#: Name, valid hooks, number of entries, their size, entry points, underflows, number of counters, where they go.
_REPLACE = struct.Struct("@32sIII5I5IIP")
_COUNTERS = struct.Struct("=32sI4x")
COUNTER_BYTES = 16


@dataclass(frozen=True, slots=True)
class Block:
    """A table: which hooks it has (a bit each), where their chains start and end (their policy), and all entries."""

    hooks: int
    entry_points: tuple[int, ...]
    underflows: tuple[int, ...]
    count: int
    data: bytes


class XtSocket:
    """Reads and replaces the tables of a family. Needs NET_ADMIN and NET_RAW."""

    def __init__(self, family: Family) -> None:
        af, self._level = _LEVELS[family]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._socket = socket.socket(af, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def info(self, table: str) -> bytes:
        """Return what the kernel says of a table: where chains start, how many entries there are and how large they
        are together. Empty when it says nothing. It takes microseconds; an entry in the place of another one of its
        size is not seen.
        """
        request = bytearray(_INFO.pack(table.encode(), *bytes(13)))
        return bytes(request) if self._get(_GET_INFO, request) else b""

    def read(self, table: str) -> Block | None:
        """Return a table; None when the kernel does not have it, or when it changed while it was read."""
        info = self.info(table)
        if not info:
            return None
        _, hooks, *places, count, size = _INFO.unpack(info)
        request = bytearray(_ENTRIES.size + size)
        _ENTRIES.pack_into(request, 0, table.encode(), size)
        if not self._get(_GET_ENTRIES, request):
            return None
        data = bytes(memoryview(request)[_ENTRIES.size :])
        return Block(hooks, tuple(places[:5]), tuple(places[5:]), count, data)

    def replace(self, table: str, old: Block, new: Block) -> bytes:
        """Put ``new`` in the place of ``old``; return the last counters of the old entries.

        Raises OSError; EAGAIN when somebody else has changed how many entries there are.
        """
        counters = ctypes.create_string_buffer(old.count * COUNTER_BYTES)
        head = _REPLACE.pack(
            table.encode(),
            new.hooks,
            new.count,
            len(new.data),
            *new.entry_points,
            *new.underflows,
            old.count,
            ctypes.addressof(counters),
        )
        self._socket.setsockopt(self._level, _SET_REPLACE, head + new.data)
        return counters.raw

    def add_counters(self, table: str, counters: bytes) -> None:
        """Add to the counters of all entries. Raises OSError."""
        head = _COUNTERS.pack(table.encode(), len(counters) // COUNTER_BYTES)
        self._socket.setsockopt(self._level, _SET_ADD_COUNTERS, head + counters)

    def _get(self, option: int, request: bytearray) -> bool:
        """Ask with what Python's getsockopt cannot pass: a buffer that says what is asked for, and takes the answer."""
        buffer = (ctypes.c_char * len(request)).from_buffer(request)
        size = ctypes.c_uint32(len(request))
        return bool(self._libc.getsockopt(self._socket.fileno(), self._level, option, buffer, ctypes.byref(size)) == 0)


# A block of iptables entries ↔ its chains. In a block, chains stand behind each other: a built-in one starts where
# its hook's entry point says, one of somebody's own behind an entry with the target ERROR that has its name; the last
# entry of a chain is its policy (RETURN for own ones), and a jump says at which offset it goes on. See ip_tables.h.

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
#: Target offset and size of an entry.
_OFFSETS = struct.Struct("=HH")
#: Size, name, revision of a target; a standard one has no name, and a verdict (or offset) behind this.
_TARGET = struct.Struct("=H29sB")
_PACKETS_BYTES = struct.Struct("=QQ")
_VERDICT = struct.Struct("=i")
_NAME_BYTES = 30
NEXT = "+"


class Entry(NamedTuple):
    """An entry with zeros for what it has counted. Where a jump goes on is no offset but ``jump``: a chain's name, or
    NEXT for an entry that only counts.
    """

    data: bytes
    jump: str = ""


class Chain(NamedTuple):
    """A chain's entries, its policy last. ``head`` is the entry with its name, nothing for a built-in one."""

    entries: tuple[Entry, ...]
    head: bytes = b""


def digest(block: Block, layout: Layout) -> bytes:
    """Return what differs between tables that differ in more than counters."""
    found = blake2b(repr((block.hooks, block.entry_points, block.underflows)).encode(), digest_size=16)
    found.update(_without_counters(block.data, layout))
    return found.digest()


def counted(block: Block, layout: Layout) -> dict[str, list[tuple[int, int]]]:
    """Return (packets, bytes) of the entries of every chain, as ``parse_block`` has them."""
    found: dict[str, list[tuple[int, int]]] = {}
    at = 0
    for name, chain in parse_block(block, layout).items():
        at += len(chain.head)
        rows = found[name] = []
        for entry in chain.entries:
            rows.append(_PACKETS_BYTES.unpack_from(block.data, at + layout.counters))
            at += len(entry.data)
    return found


def parse_block(block: Block, layout: Layout) -> dict[str, Chain]:
    """Return the chains of a block in their order, and behind them, as ``""``, the entry that ends it."""
    data = bytes(_without_counters(block.data, layout))
    built_in = {offset: HOOKS[hook] for hook, offset in enumerate(block.entry_points) if block.hooks >> hook & 1}
    starts: dict[int, str] = {}
    parts: dict[str, tuple[bytes, list[tuple[int, int, int]]]] = {}
    rows: list[tuple[int, int, int]] = []
    at = 0
    while at < len(data):
        target, size = _OFFSETS.unpack_from(data, at + layout.target_offset)
        _, name, _ = _TARGET.unpack_from(data, at + target)
        if at in built_in:
            rows = []
            starts[at] = built_in[at]
            parts[built_in[at]] = (b"", rows)
        if name.startswith(b"ERROR\0"):
            label = data[at + target + _TARGET.size :][:_NAME_BYTES].partition(b"\0")[0].decode()
            last = at + size == len(data)
            rows = []
            parts["" if last else label] = (data[at : at + size], rows)
            starts[at + size] = label
        else:
            rows.append((at, target, size))
        at += size
    return {
        name: Chain(tuple(_entry(data, *row, starts) for row in rows), head) for name, (head, rows) in parts.items()
    }


def build_block(chains: dict[str, Chain], layout: Layout, like: Block) -> Block:
    """Return the block of ``chains``, the inverse of ``parse_block``; its hooks are those of ``like``.

    Raises KeyError when an entry jumps to a chain that is not there.
    """
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    at = count = 0
    for name, chain in chains.items():
        at += len(chain.head)
        starts[name] = at
        for entry in chain.entries:
            ends[name] = at
            at += len(entry.data)
        count += len(chain.entries) + bool(chain.head)
    pieces: list[bytes] = []
    for name, chain in chains.items():
        pieces.append(chain.head)
        at = starts[name]
        for entry in chain.entries:
            at += len(entry.data)
            pieces.append(_linked(entry, layout, at if entry.jump == NEXT else starts[entry.jump]))
    valid = [hook for hook in range(len(HOOKS)) if like.hooks >> hook & 1]
    return replace(
        like,
        entry_points=tuple(starts[HOOKS[hook]] if hook in valid else like.entry_points[hook] for hook in range(5)),
        underflows=tuple(ends[HOOKS[hook]] if hook in valid else like.underflows[hook] for hook in range(5)),
        count=count,
        data=b"".join(pieces),
    )


def _entry(data: bytes, at: int, target: int, size: int, starts: dict[int, str]) -> Entry:
    whole = data[at : at + size]
    _, name, _ = _TARGET.unpack_from(whole, target)
    if name[0]:
        return Entry(whole)
    place = target + _TARGET.size
    (verdict,) = _VERDICT.unpack_from(whole, place)
    if verdict < 0:
        return Entry(whole)
    jump = NEXT if verdict == at + size else starts[verdict]
    return Entry(whole[:place] + bytes(_VERDICT.size) + whole[place + _VERDICT.size :], jump)


def _linked(entry: Entry, layout: Layout, goes_on: int) -> bytes:
    if not entry.jump:
        return entry.data
    target, _ = _OFFSETS.unpack_from(entry.data, layout.target_offset)
    place = target + _TARGET.size
    return entry.data[:place] + _VERDICT.pack(goes_on) + entry.data[place + _VERDICT.size :]


def _without_counters(data: bytes, layout: Layout) -> bytearray:
    """Clear the counters of every entry, and what the kernel notes before them."""
    found = bytearray(data)
    nothing, size, at = bytes(layout.size - layout.comefrom), len(data), 0
    while at < size:
        found[at + layout.comefrom : at + layout.size] = nothing
        at += _OFFSETS.unpack_from(data, at + layout.target_offset)[1]
    return found
