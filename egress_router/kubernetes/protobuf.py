"""Messages of protocol buffers, as far as it takes to read a few fields and to write texts and numbers.

See https://protobuf.dev/programming-guides/encoding/. A library and its generated classes would cost every node two to
six megabytes for the dozen fields that are read here.
"""

from __future__ import annotations

from collections.abc import Iterator

Value = int | bytes

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
#: A number of 64 bits takes so many bytes, seven bits in each.
_MOST_BYTES = 10


class Malformed(ValueError):
    """Bytes that are no message."""


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field in the order in which they stand: numbers as they are written (without a
    sign), texts, bytes and messages as bytes. Raises Malformed.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise Malformed("a field has no number")
        value: Value
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind == _LENGTH:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
            value, at = int.from_bytes(message[at : at + length], "little"), at + length
        else:
            raise Malformed(f"field {number} is of the unknown kind {kind}")
        if at > end:
            raise Malformed(f"field {number} goes beyond the end")
        yield number, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + _MOST_BYTES]):
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise Malformed("a number does not end")


def text(value: Value) -> str:
    """Return a field that is a text. Raises Malformed when it is a number."""
    return _bytes(value).decode(errors="replace")


def message(value: Value) -> bytes:
    """Return a field that is a message. Raises Malformed when it is a number."""
    return _bytes(value)


def number(value: Value) -> int:
    """Return a field that is a number. Raises Malformed when it is something else."""
    if isinstance(value, int):
        return value
    raise Malformed("there is something else where a number should be")


def pair(value: Value) -> tuple[str, str]:
    """Return an entry of a mapping of texts. Raises Malformed."""
    found = {1: "", 2: ""}
    for place, item in fields(_bytes(value)):
        if place in found:
            found[place] = text(item)
    return found[1], found[2]


def _bytes(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    raise Malformed("there is a number where something else should be")


def written(place: int, value: int | str | bytes) -> bytes:
    """Return a field as it stands in a message; numbers from 0."""
    if isinstance(value, int):
        return _written_varint(place << 3 | _VARINT) + _written_varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _written_varint(place << 3 | _LENGTH) + _written_varint(len(content)) + content


def _written_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
