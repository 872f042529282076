"""A block of iptables entries ↔ its chains.

In a block, chains stand behind each other: a built-in one starts where its hook's entry point says, one of somebody's
own behind an entry with the target ERROR that has its name; the last entry of a chain is its policy (RETURN for own
ones), and a jump says at which offset it goes on. See ip_tables.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from egress_router.net.iptables.blocks import Block
from egress_router.net.iptables.entries import Layout
from egress_router.records import replace

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


def digest(block: Block, layout: Layout) -> str:
    """Return what differs between tables that differ in more than counters. Python's own hash, of 64 bits: it is the
    same in this process and its children, and hashlib loads OpenSSL.
    """
    places = (block.hooks, block.entry_points, block.underflows)
    return f"{hash((places, bytes(_without_counters(block.data, layout)))) & (1 << 64) - 1:016x}"


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
