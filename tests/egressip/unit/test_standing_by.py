"""Whom a node stands by for, and what it asks early."""

from __future__ import annotations

from egress_router.egressip.api import ClusterState, HostSubnet
from egress_router.egressip.node.standing_by import AGAIN, COUNTS, MOST, EarlyChecks, Pairs, pairs_of

IP = "192.0.2.45"
NODES = {name: HostSubnet(name, f"192.0.2.{number}", "") for number, name in enumerate("abc", 11)}


def test_the_pairs_that_a_node_is_one_of() -> None:
    given = {"a": ("192.0.2.41", "192.0.2.42"), "b": ("192.0.2.43",), "gone": ("192.0.2.44",), "c": ("192.0.2.46",)}
    standbys = {
        "192.0.2.41": "b",
        "192.0.2.42": "gone",
        "192.0.2.43": "a",
        "192.0.2.44": "a",
        "192.0.2.45": "a",
        "192.0.2.46": "b",
    }
    state = ClusterState({}, NODES, {}, given, standbys=standbys)
    assert pairs_of("a", state) == Pairs({"192.0.2.41": "b"}, {"192.0.2.43": "b"})
    assert pairs_of("c", state) == Pairs({"192.0.2.46": "b"}, {})


def test_an_answer_counts_for_a_moment_and_is_asked_for_again() -> None:
    early = EarlyChecks()
    assert early.due({IP}, 1.0) == {IP}
    assert early.due({IP}, 1.1) == set(), "not before there is an answer"
    assert not early.is_free(IP, 1.1)
    early.answered(IP, free=True, now=1.15)
    assert early.is_free(IP, 1.2)
    assert not early.is_free(IP, 1.0 + COUNTS), "from the question on"
    assert early.due({IP}, 1.2) == set()
    assert early.due({IP}, 1.15 + AGAIN) == {IP}
    early.answered(IP, free=False, now=1.4)
    assert not early.is_free(IP, 1.41)


def test_what_was_asked_before_the_holder_fell_silent_again_says_nothing() -> None:
    early = EarlyChecks()
    early.due({IP}, 1.0)
    early.due((), 1.05)
    early.answered(IP, free=True, now=1.15)
    assert not early.is_free(IP, 1.16)
    early.due({IP}, 1.2)
    assert not early.is_free(IP, 1.21)
    assert early
    early.due((), 1.3)
    assert not early


def test_nobody_is_asked_for_ever() -> None:
    early = EarlyChecks()
    early.due({IP}, 1.0)
    early.answered(IP, free=True, now=1.1)
    assert early.due({IP}, 1.0 + MOST) == set()
