"""What agents and controllers say to each other, and everything else that may come to their port."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.node.drop_reasons import DROPS
from egress_router.net.agent_figures import as_message, parse_figures, parts_of
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


def test_figures_go_in_parts_and_come_back() -> None:
    ips = {f"192.0.2.{n}": n for n in range(1, 46)}
    parts = parts_of("0.1.0", ips, {"192.0.2.7": 7, "192.0.2.8": 0}, {"no_way": 3, "refused": 0}, {"node-2": "tunnel"})
    assert [(one.part, one.parts, len(one.connections)) for one in parts] == [(0, 3, 20), (1, 3, 20), (2, 3, 5)]
    assert {ip: count for one in parts for ip, count in one.connections.items()} == ips
    assert [dict(one.drops) for one in parts] == [{"no_way": 3}, {}, {}]
    assert (parts[0].version, parts[0].broken) == ("0.1.0", {"node-2": "tunnel"})
    assert [dict(one.ports) for one in parts if one.ports] == [{"192.0.2.7": 7}]
    for one in parts:
        told = {"told": 7, "ready": True, "draining": False, "lacks": [SOURCE], "figures": as_message(one)}
        message = parse_message(json.dumps(told).encode())
        assert isinstance(message, Reply)
        assert message.figures == one
    assert len(parts_of("0.1.0", {}, {}, {}, {})) == 1, "a node without addresses has a version and drops"
    longest = {f"2001:db8:{n:04x}:ffff:ffff:ffff:ffff:ffff": 1 << 40 for n in range(64)}
    nodes = {f"{n:02}" + "n" * 251: "full_size" for n in range(64)}
    for one in parts_of("0.1.0", longest, longest, dict.fromkeys(DROPS, 1 << 40), nodes):
        assert len(json.dumps(as_message(one))) < 8000, "it fits a datagram"


def test_a_question_for_a_part_of_the_figures() -> None:
    assert parse_message(b'{"ask": 7, "figures": 2}') == Question(7, part=2)
    for wrong in (b"true", b"-1", b"70000", b'"1"', b"null", b"[]"):
        assert parse_message(b'{"ask": 7, "figures": %s}' % wrong) == Question(7)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"part": 0},
        {"part": 0, "parts": 0},
        {"part": 1, "parts": 1},
        {"part": True, "parts": 2},
        {"part": 0, "parts": 65},
        {"part": -1, "parts": 1},
        {"part": 0.0, "parts": 1},
    ],
)
def test_what_are_no_figures(value: object) -> None:
    assert parse_figures(value) is None


def test_what_figures_may_hold() -> None:
    strange = {
        "part": 0,
        "parts": 1,
        "version": "\x1b[31m",
        "connections": {"192.0.2.1": -1, "192.0.2.2": True, "192.0.2.3": 1.5, "x" * 46: 1, "192.0.2.4": 4},
        "ports": [1],
        "drops": {str(n): n for n in range(100)},
        "broken": {"a": 1, "b": "x" * 254, "c": "tunnel", "\ud800": "tunnel"},
    }
    figures = parse_figures(strange)
    assert figures is not None
    assert (figures.version, figures.connections, figures.ports) == ("", {"192.0.2.4": 4}, {})
    assert len(figures.drops) == 20
    assert figures.broken == {"c": "tunnel"}


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
        st.sampled_from(["ask", "told", "uses", "ready", "draining", "lacks", "pods", "starts", "takes", "figures"]),
        VALUES,
    )
)
def test_any_values_are_survived(message: dict[str, object]) -> None:
    parse_message(json.dumps(message).encode())
