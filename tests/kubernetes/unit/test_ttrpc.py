"""Bytes of a runtime: messages cut anywhere, and what is none."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.kubernetes.nri import Sandbox, read_sandbox
from egress_router.kubernetes.protobuf import Malformed, fields, pair, written
from egress_router.kubernetes.ttrpc import (
    FRAME_BYTES,
    MESSAGE_BYTES,
    REQUEST,
    RESPONSE,
    Message,
    Messages,
    framed,
    read_error,
    read_request,
    request,
    response,
)
from tests.support.fake_runtime import listing, sandbox_message

texts = st.text(max_size=8)
sent_messages = st.builds(
    Message,
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2]),
    st.binary(max_size=20) | st.integers(0, 9000).map(bytes),
)
sandboxes = st.builds(
    Sandbox,
    texts,
    texts,
    texts,
    texts,
    st.dictionaries(texts, texts, max_size=4).map(lambda labels: tuple(sorted(labels.items()))),
    st.lists(texts, max_size=2).map(tuple),
    st.booleans(),
)


@given(st.lists(sent_messages, max_size=4), st.data())
def test_messages_come_out_as_they_went_in_wherever_they_are_cut(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(framed, sent))
    read = Messages((1, 2))
    got: list[Message] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += read.take(stream[:cut])
        stream = stream[cut:]
    assert got == sent


@given(st.integers(0, 20000))
def test_no_frame_is_longer_than_the_other_side_reads(length: int) -> None:
    payload = bytes(length)
    frames, lengths = framed(Message(1, 3, RESPONSE, payload)), []
    while frames:
        connection, length = struct.unpack(">II", frames[:8])
        assert connection == 1
        lengths.append(length)
        frames = frames[8 + length :]
    assert max(lengths) <= FRAME_BYTES
    assert sum(lengths) == len(payload) + 10


@given(st.binary(max_size=300))
def test_whatever_comes_is_understood_or_refused(data: bytes) -> None:
    """No other exception, and no endless loop."""
    for read in (lambda: list(Messages((1, 2)).take(data)), lambda: list(fields(data)), lambda: read_sandbox(data)):
        with suppress(Malformed):
            read()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", 3, 0),
        struct.pack(">II", 1, MESSAGE_BYTES + 11),
        struct.pack(">IIIIBB", 1, 10, MESSAGE_BYTES + 1, 1, 1, 0),
    ],
    ids=["connection", "frame", "message"],
)
def test_what_would_never_end_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(Malformed):
        list(Messages((1, 2)).take(data))


def test_calls_and_answers_are_read_as_written() -> None:
    (asked,) = Messages((1, 2)).take(request(2, 5, "service", "method", b"what"))
    assert (asked.connection, asked.stream, asked.kind) == (2, 5, REQUEST)
    call = read_request(asked)
    assert (call.service, call.method, call.payload) == ("service", "method", b"what")
    (answer,) = Messages((1, 2)).take(response(asked, b"so"))
    assert (answer.stream, answer.kind, answer.payload) == (5, RESPONSE, written(2, b"so"))
    assert response(asked)[-10:-6] == bytes(4), "an empty answer is a message of length 0"
    assert read_error(answer) == ""
    refused = written(1, written(1, 13) + written(2, "no"))
    assert read_error(Message(2, 1, RESPONSE, refused)) == "no (code 13)"


@given(sandboxes)
def test_a_sandbox_is_read_as_the_runtime_wrote_it(sandbox: Sandbox) -> None:
    assert read_sandbox(sandbox_message(sandbox)) == sandbox, "without the runtime's own labels"


@given(st.lists(sandboxes, max_size=3))
def test_a_list_has_all_sandboxes(listed: list[Sandbox]) -> None:
    assert [read_sandbox(value) for place, value in fields(listing(listed)) if place == 1] == listed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x08\x96\x01", [(1, 150)]),
        (b"\x09\x01\x00\x00\x00\x00\x00\x00\x00", [(1, 1)]),
        (b"\x0d\x02\x00\x00\x00", [(1, 2)]),
        (b"\x12\x02hi", [(2, b"hi")]),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", [(1, 2**64 - 1)]),
    ],
)
def test_fields_are_those_of_the_encoding(data: bytes, found: list[tuple[int, int | bytes]]) -> None:
    """The first and the fourth are examples of protobuf.dev."""
    assert list(fields(data)) == found


@pytest.mark.parametrize("data", [b"\x08", b"\x12\x05hi", b"\x0b", b"\x00\x01", b"\x08" + b"\xff" * 10, b"\x09\x01"])
def test_what_is_cut_or_unknown_is_no_message(data: bytes) -> None:
    with pytest.raises(Malformed):
        list(fields(data))


def test_an_entry_without_a_value_has_an_empty_one() -> None:
    assert pair(written(1, "app")) == ("app", "")
