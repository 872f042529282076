"""Read and change the elements of nftables sets by netlink: nft(8) takes half a second for ten thousand.

See linux/netfilter/nf_tables.h (NFT_MSG_*SETELEM, NFTA_SET_ELEM_*) and linux/netfilter/nfnetlink.h (NFNL_MSG_BATCH_*).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from egress_router.errors import PlatformError
from egress_router.net.closing import Closing
from egress_router.net.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
)
from egress_router.net.nft.codec import VERDICT, Codec, codec
from egress_router.net.nft.values import NftSet, SetChange
from egress_router.records import dataclass

_GET_TABLE, _NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT, _GET_GENERATION = 0xA01, 0xA0C, 0xA0D, 0xA0E, 0xA10
_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 0x10, 0x11, 10
_BATCH_GENERATION, _GENERATION = 1, 1
_FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "ip6": 10}
#: NFTA_TABLE_NAME is NFTA_SET_ELEM_LIST_TABLE.
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _DATA, _FLAGS, _EXPRESSION = 1, 1, 2, 3, 7
_VALUE, _VERDICT = 1, 2
_INTERVAL_END = 1
_EXPRESSION_DATA, _COUNTER_BYTES = 2, 1
_NESTED = 0x8000
_LENGTH = struct.Struct("=H")
#: Bytes, the next attribute's head, packets.
_COUNTER = struct.Struct("!Q4xQ")
#: Bytes of the two heads, netlink's and netfilter's, that stand before the attributes.
_HEADS = 20
#: An attribute's length is a number of 16 bits.
_MOST_BYTES = 60000

#: Packets and bytes.
Counted = tuple[int, int]
#: Key, data, whether it is an interval's (exclusive) end.
Raw = tuple[bytes, bytes, bool]


class NftSocket(Closing):
    """A netlink socket to nftables. Tables are called as nft(8) calls them: ``inet egress_router``."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)
        #: What was last added to sets, which ``holds`` is asked about next: the words, and what was sent for them.
        self._added: dict[tuple[str, str], tuple[Mapping[str, str | None], list[Raw]]] = {}

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def generation(self) -> int:
        """Return the number that every transaction in this network namespace adds one to."""
        head = struct.pack("=BBH", 0, 0, 0)
        for _, _, message in list(
            self._netlink.stream(_GET_GENERATION, NLM_F_ACK, head, "ask for the nftables generation")
        ):
            for type_, start, _ in attributes(message, _HEADS, len(message)):
                if type_ == _GENERATION:
                    return int(struct.unpack_from("!I", message, start)[0])
        raise PlatformError("the kernel does not tell the generation of its nftables rules")

    def has(self, table: str) -> bool:
        """Whether there is a table of that name. A hundredth of what nft takes to say so."""
        try:
            # It answers with the table, which is of no interest.
            list(self._netlink.stream(_GET_TABLE, NLM_F_ACK, _head(table), f"look for the nftables table {table}"))
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            return False
        return True

    def read(self, table: str, item: NftSet) -> dict[str, tuple[str | None, Counted | None]]:
        """Return {key: (value or None, counters or None)} of a set or map of ``table``, in the words of nft(8).

        Raises PlatformError when the kernel does not answer as expected.
        """
        keys, values = _codecs(item)
        if keys is None or (":" in item.header[0] and values is None):
            raise PlatformError(f"the set {item.name} has a type that nobody foresaw: {item.header[0]}")
        rows = self._dump(table, item.name)
        if not item.interval:
            return {keys.read(key): (values.read(data) if values else None, counted) for key, data, _, counted in rows}
        # The starts, and the ends as elements of their own.
        sorted_rows = sorted(((key, not end, data, counted) for key, data, end, counted in rows), key=lambda r: r[:2])
        found: dict[str, tuple[str | None, Counted | None]] = {}
        for position, (key, is_start, data, counted) in enumerate(sorted_rows):
            if is_start:
                after = sorted_rows[position + 1][0] if position + 1 < len(sorted_rows) else None
                found[keys.interval(key, after)] = (values.read(data) if values else None, counted)
        return found

    def holds(self, table: str, item: NftSet) -> bool:
        """Whether the kernel's set has the elements of ``item``, whose types are known, and no others."""
        # nft adds an end without a start, at zero.
        found = {(key, data, end) for key, data, end, _ in self._dump(table, item.name) if not end or any(key)}
        words, raw = self._added.get((table, item.name), ({}, []))
        return found == set(raw if words == item.elements else _raw(item, item.elements))

    def change(self, changes: Iterable[tuple[str, SetChange]], generation: int) -> None:
        """Remove and add elements of sets of tables in one transaction, if ``generation`` is still that of the kernel.

        Raises NetlinkError; ERESTART when it is not.
        """
        begin = struct.pack("=BBH", 0, 0, _SUBSYSTEM << 8) + attribute(_BATCH_GENERATION, struct.pack("!I", generation))
        changes = tuple(changes)
        messages = [(_BATCH_BEGIN, 0, begin)]
        for table, change in changes:
            keys = dict.fromkeys(change.removed)
            raw = list(_raw(change.item, keys))
            messages += [(_DELETE_ELEMENT, 0, body) for body in _bodies(table, change.item, raw)]
        for table, change in changes:
            raw = list(_raw(change.item, change.added))
            self._added[table, change.item.name] = change.added, raw
            messages += [(_NEW_ELEMENT, NLM_F_CREATE, body) for body in _bodies(table, change.item, raw)]
        # Before Linux 6.10 the end of a batch is not acknowledged, its parts are.
        type_, flags, body = messages[-1]
        messages[-1] = (type_, flags | NLM_F_ACK, body)
        messages.append((_BATCH_END, 0, begin[:4]))
        self._netlink.change_all(messages, f"change elements of {', '.join({table for table, _ in changes})}")

    def _dump(self, table: str, name: str) -> Iterator[tuple[bytes, bytes, bool, Counted | None]]:
        """Yield (key, data, is an interval's end, counters) of every element."""
        for _, _, message in self._netlink.stream(
            _GET_ELEMENT, NLM_F_DUMP, _head(table, name), f"read the nftables set {name}"
        ):
            yield from _elements(message)


def _head(table: str, name: str = "") -> bytes:
    """Return the head of a message about a table, or about one of its sets."""
    family, _, own = table.partition(" ")
    names = ((_LIST_TABLE, own), (_LIST_SET, name))
    return struct.pack("=BBH", _FAMILIES[family], 0, 0) + b"".join(
        attribute(type_, text.encode() + b"\0") for type_, text in names if text
    )


def _bodies(table: str, item: NftSet, elements: Iterable[Raw]) -> Iterator[bytes]:
    """Yield what stands behind netlink's head in the messages that name ``elements``."""
    head, parts, size = _head(table, item.name), [], 0
    verdicts = item.header[0].endswith(f" : {VERDICT}")
    for raw in elements:
        parts.append(_element(*raw, verdicts))
        size += len(parts[-1])
        if size > _MOST_BYTES:
            yield head + attribute(_LIST_ELEMENTS | _NESTED, b"".join(parts))
            parts, size = [], 0
    if parts:
        yield head + attribute(_LIST_ELEMENTS | _NESTED, b"".join(parts))


def known_types(item: NftSet) -> bool:
    """Whether the bytes of the set's elements are known."""
    keys, values = _codecs(item)
    return keys is not None and (":" not in item.header[0] or values is not None)


def _codecs(item: NftSet) -> tuple[Codec | None, Codec | None]:
    """Return the codecs of a set's keys and of its values (None also in a set without values)."""
    keys, _, values = item.header[0].partition(" ")[2].partition(" : ")
    return codec(keys), codec(values) if values else None


def _raw(item: NftSet, elements: Mapping[str, str | None]) -> Iterator[Raw]:
    """Yield ``elements`` of the set ``item``, whose types are known, as the kernel has them: in order, ends apart."""
    keys, values = _codecs(item)
    assert keys is not None  # noqa: S101
    if not item.interval:
        for key, value in elements.items():
            yield keys.write(key), values.write(value) if values and value else b"", False
        return
    rows = [
        (*keys.first_and_after(key), values.write(value) if values and value else b"")
        for key, value in elements.items()
    ]
    rows.sort(key=lambda row: row[0])
    for first, after, data in rows:
        yield first, data, False
        if after is not None:
            yield after, b"", True


def _element(key: bytes, data: bytes, end: bool, verdict: bool) -> bytes:
    before, between, after = _frame(len(key), len(data), end, verdict)
    return b"".join((before, key, between, data, after))


@cache
def _frame(key: int, data: int, end: bool, verdict: bool) -> tuple[bytes, bytes, bytes]:
    """Return what stands before, between and behind a key and a value of so many bytes; a set has no values."""
    inner = attribute(_KEY | _NESTED, attribute(_VALUE, b"K" * key))
    if data:
        inner += attribute(_DATA | _NESTED, attribute(_VERDICT | _NESTED if verdict else _VALUE, b"D" * data))
    if end:
        inner += attribute(_FLAGS, struct.pack("!I", _INTERVAL_END))
    before, _, rest = attribute(_ELEMENT | _NESTED, inner).partition(b"K" * key)
    between, _, after = rest.partition(b"D" * data) if data else (rest, b"", b"")
    return before, between, after


def _elements(message: bytes) -> Iterator[tuple[bytes, bytes, bool, Counted | None]]:
    """Yield the elements of one message. Those of one length are laid out alike, so only the first is taken apart."""
    layouts: dict[int, _Layout] = {}
    for type_, first, stop in attributes(message, _HEADS, len(message)):
        start = first if type_ == _LIST_ELEMENTS else stop
        while start + 4 <= stop:
            (length,) = _LENGTH.unpack_from(message, start)
            layout = layouts.get(length)
            if layout is None:
                layout = layouts[length] = _layout(message, start, start + length)
            element = message[start : start + length]
            counted = None
            if layout.counter is not None:
                size, packets = _COUNTER.unpack_from(element, layout.counter)
                counted = (packets, size)
            yield element[layout.key], element[layout.value], layout.is_end, counted
            start += (length + 3) & ~3


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand in an element, from its start; ``counter`` is where bytes and packets stand, or None."""

    key: slice
    value: slice
    is_end: bool
    counter: int | None


def _layout(data: bytes, element: int, end: int) -> _Layout:
    key = value = slice(0, 0)
    is_end, counter = False, None
    for field, inner, inner_end in attributes(data, element + 4, end):
        if field == _KEY:
            key = _value(data, inner, element)
        elif field == _DATA:
            value = _value(data, inner, element)
        elif field == _FLAGS:
            is_end = bool(struct.unpack_from("!I", data, inner)[0] & _INTERVAL_END)
        elif field == _EXPRESSION:
            found = _counter(data, inner, inner_end)
            counter = None if found is None else found - element
    return _Layout(key, value, is_end, counter)


def _value(data: bytes, at: int, element: int) -> slice:
    """Return where the value of an NFTA_DATA_VALUE attribute stands in its element, without its padding."""
    (length,) = _LENGTH.unpack_from(data, at)
    return slice(at + 4 - element, at + length - element)


def _counter(data: bytes, at: int, end: int) -> int | None:
    """Find NFTA_COUNTER_BYTES, which NFTA_COUNTER_PACKETS follows, in an expression; return where its value stands."""
    for type_, start, stop in attributes(data, at, end):
        if type_ == _EXPRESSION_DATA:
            for kind, inner, _ in attributes(data, start, stop):
                if kind == _COUNTER_BYTES:
                    return inner
    return None
