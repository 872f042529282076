"""Calls both ways over one stream, as container runtimes and their plugins make them. Bytes in, bytes out.

Messages are those of ttrpc (https://github.com/containerd/ttrpc, PROTOCOL.md); several connections share the stream by
frames, each with the number of its connection (https://github.com/containerd/nri, pkg/net/multiplex).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from egress_router.kubernetes.protobuf import Malformed, fields, message, number, text, written

#: Of a frame: connection, length. Of a message: length, stream, type, flags.
_FRAME, _HEAD = struct.Struct(">II"), struct.Struct(">IIBB")
#: The other end of a frame reads into a buffer of so many bytes and drops what is longer without a word.
FRAME_BYTES = 4096
#: ttrpc allows no longer message.
MESSAGE_BYTES = 4 << 20
REQUEST, RESPONSE = 1, 2


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a connection. ``stream`` numbers a call: the answer has that of the request."""

    connection: int
    stream: int
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a method of a service."""

    service: str
    method: str
    payload: bytes


class Messages:
    """Puts messages together from what is read of the stream. Raises Malformed for what cannot be one."""

    def __init__(self, connections: tuple[int, ...]) -> None:
        """``connections`` are those that there are."""
        self._read = bytearray()
        #: A message may be cut over several frames.
        self._of_connection = {connection: bytearray() for connection in connections}

    def take(self, data: bytes) -> Iterator[Message]:
        """Take in what was read, and yield the messages that are complete."""
        self._read += data
        while len(self._read) >= _FRAME.size:
            connection, length = _FRAME.unpack_from(self._read)
            if connection not in self._of_connection:
                raise Malformed(f"there is no connection {connection}")
            if length > MESSAGE_BYTES + _HEAD.size:
                raise Malformed(f"a frame of {length} bytes")
            end = _FRAME.size + length
            if len(self._read) < end:
                return
            buffer = self._of_connection[connection]
            buffer += memoryview(self._read)[_FRAME.size : end]
            del self._read[:end]
            yield from _messages(connection, buffer)


def _messages(connection: int, buffer: bytearray) -> Iterator[Message]:
    while len(buffer) >= _HEAD.size:
        length, stream, kind, _flags = _HEAD.unpack_from(buffer)
        if length > MESSAGE_BYTES:
            raise Malformed(f"a message of {length} bytes")
        end = _HEAD.size + length
        if len(buffer) < end:
            return
        payload = bytes(memoryview(buffer)[_HEAD.size : end])
        del buffer[:end]
        yield Message(connection, stream, kind, payload)


def framed(sent: Message) -> bytes:
    """Return the frames of a message."""
    whole = _HEAD.pack(len(sent.payload), sent.stream, sent.kind, 0) + sent.payload
    parts = (whole[at : at + FRAME_BYTES] for at in range(0, len(whole), FRAME_BYTES))
    return b"".join(_FRAME.pack(sent.connection, len(part)) + part for part in parts)


def request(connection: int, stream: int, service: str, method: str, payload: bytes) -> bytes:
    """Return the frames of a call."""
    body = written(1, service) + written(2, method) + written(3, payload)
    return framed(Message(connection, stream, REQUEST, body))


def response(asked: Message, payload: bytes = b"") -> bytes:
    """Return the frames of the answer to a call: that it went well, with this result."""
    body = written(2, payload) if payload else b""
    return framed(Message(asked.connection, asked.stream, RESPONSE, body))


def read_request(asked: Message) -> Request:
    """Return what a message asks for. Raises Malformed."""
    service = method = ""
    payload = b""
    for place, value in fields(asked.payload):
        if place == 1:
            service = text(value)
        elif place == 2:
            method = text(value)
        elif place == 3:
            payload = message(value)
    return Request(service, method, payload)


def read_error(answer: Message) -> str:
    """Return why a call failed as its answer says, empty when it did not. Raises Malformed."""
    for place, value in fields(answer.payload):
        if place == 1:
            status = dict(fields(message(value)))
            code = number(status.get(1, 0))
            if code:
                return f"{text(status.get(2, b'')) or 'no reason given'} (code {code})"
    return ""
