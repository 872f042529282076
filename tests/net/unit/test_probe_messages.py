"""What agents and controllers say to each other, and everything else that may come to their port."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.net.icmp_probe import Question, Reply, parse_message

POD, SOURCE = "198.51.100.2", "2001:db8:2::45"


def test_questions_of_agents_and_of_controllers() -> None:
    asked = json.dumps({"ask": 7, "uses": True, "pods": [POD]}).encode()
    assert parse_message(asked) == Question(7, uses=True, pods=(POD,))
    assert parse_message(b'{"ask": 65535}') == Question(65535, uses=None)


def test_pods_that_start() -> None:
    asked = json.dumps({"ask": 7, "pods": [POD], "starts": {POD: "shop uid", SOURCE: "x" * 321, "y" * 46: "a", "z": 5}})
    assert parse_message(asked.encode()) == Question(7, pods=(POD,), starts={POD: "shop uid"})
    assert parse_message(b'{"ask": 1, "starts": [1]}') == Question(1)
    many = {f"198.51.100.{n}": "shop uid" for n in range(200)}
    message = parse_message(json.dumps({"ask": 1, "starts": many}).encode())
    assert isinstance(message, Question)
    assert len(message.starts) == 64
    assert parse_message(b'{"told": 1, "takes": true}') == Reply(1, False, False, None, {}, takes_pods=True)


def test_a_reply() -> None:
    told = {"told": 7, "ready": True, "draining": False, "lacks": [SOURCE], "pods": {POD: SOURCE, "198.51.100.3": ""}}
    reply = Reply(7, True, False, frozenset({SOURCE}), {POD: SOURCE, "198.51.100.3": ""})
    assert parse_message(json.dumps(told).encode()) == reply
    assert parse_message(b'{"told": 0}') == Reply(0, False, False, None, {})


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 8192,
        b'{"ask":' * 1170,
        b'{"ask": ' + b"[" * 4000 + b"]" * 4000 + b"}",
        b'{"ask": 1' + b"0" * 8000 + b"}",
        b'{"ask": 1e999}',
        b'{"ask": -1}',
        b'{"ask": 65536}',
        b'{"ask": true}',
        b'{"told": null}',
        b'{"told": NaN}',
        b'"ask"',
        b"5",
        b"null",
        b"",
        b"\xff\xfe\x00",
        b"\x00" * 100,
        b"{",
        b"\xed\xa0\x80",
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    assert parse_message(data) is None


def test_what_a_message_may_hold() -> None:
    """Texts that are no address, too many of them, and values of other types are left out."""
    many = json.dumps({"ask": 1, "pods": [f"198.51.100.{n}" for n in range(200)]}).encode()
    message = parse_message(many)
    assert isinstance(message, Question)
    assert len(message.pods) == 64
    strange = {"ask": 1, "uses": "yes", "pods": [5, None, {}, "\ud800", "\x1b[31m", "x" * 46, POD]}
    assert parse_message(json.dumps(strange).encode()) == Question(1, uses=False, pods=(POD,))
    reply = {"told": 1, "ready": 1, "lacks": {POD: 1}, "pods": {POD: 7, "x": "\ud800", SOURCE: SOURCE}}
    assert parse_message(json.dumps(reply).encode()) == Reply(1, False, False, None, {SOURCE: SOURCE})


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    parse_message(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", POD]), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["ask", "told", "uses", "ready", "draining", "lacks", "pods", "starts", "takes"]), VALUES
    )
)
def test_any_values_are_survived(message: dict[str, object]) -> None:
    parse_message(json.dumps(message).encode())
