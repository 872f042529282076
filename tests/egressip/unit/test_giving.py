"""Addresses that a node gives to their standbys while it lives."""

from __future__ import annotations

from egress_router.egressip.node.giving import LINGER, Giving
from egress_router.egressip.node.handover import WAIT

IP, OTHER = "192.0.2.45", "192.0.2.46"


def _given() -> Giving:
    giving = Giving()
    giving.begin({IP: "b"}, 1.0)
    return giving


def test_it_is_translated_to_until_the_standby_has_it_and_a_moment_longer() -> None:
    giving = _given()
    giving.follow("a", {IP: "b"}, 2.0)
    assert (giving.translated(), giving.awaited(), giving.due()) == (frozenset({IP}), {IP: "b"}, 1.0 + WAIT)
    assert not giving.taken(IP, "c", 2.0)
    assert not giving.taken(OTHER, "b", 2.0)
    assert giving.taken(IP, "b", 2.0)
    assert not giving.taken(IP, "b", 2.5), "no news"
    assert (giving.translated(), giving.awaited(), giving.due()) == (frozenset({IP}), {}, 2.0 + LINGER)
    giving.follow("a", {IP: "b"}, 2.0 + LINGER)
    assert (giving.translated(), giving.due()) == (frozenset(), None)


def test_a_standby_that_never_has_it_is_not_waited_for_for_ever() -> None:
    giving = _given()
    giving.follow("a", {IP: "b"}, 1.0 + WAIT)
    assert giving.translated() == frozenset()


def test_what_goes_elsewhere_or_comes_back_is_given_no_more() -> None:
    for holders in ({IP: "c"}, {}, {IP: "a"}):
        giving = _given()
        giving.taken(IP, "b", 1.5)
        giving.follow("a", holders, 2.0)
        assert giving.translated() == frozenset()


def test_what_comes_back_before_anybody_had_it_is_translated_until_it_is_here() -> None:
    giving = _given()
    giving.follow("a", {IP: "a"}, 2.0)
    assert giving.translated() == frozenset({IP})
    giving.is_back(IP)
    giving.is_back(OTHER)
    assert giving.translated() == frozenset()
    late = _given()
    late.follow("a", {IP: "a"}, 1.0 + WAIT)
    assert late.translated() == frozenset(), "nor for ever"
