"""What is believed about a name after look-ups that succeed, fail and deny."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.values import Address, Family
from egress_router.dns.cache import (
    HOLD_NEGATIVE,
    REFRESH_MIN,
    RETRY_MAX,
    Answer,
    CacheEntry,
    CachePolicy,
    CandidateReplies,
    Failure,
    NegativeAnswer,
    Reply,
    expires_at,
    select_addresses,
    updated,
    without_expired,
)

ONE, TWO, SIX = (ip_address(text) for text in ("203.0.113.25", "203.0.113.26", "2001:db8:113::25"))
TERMS = CachePolicy(refresh_max=300, hold=3600)
HOLD_FAILED, REFRESH_MAX = TERMS.hold, TERMS.refresh_max
NO, SERVFAIL, SILENT = NegativeAnswer("does not exist"), Failure("SERVFAIL"), Failure("no reply in time", silent=True)


def found(*addresses: Address, ttl: float = 5) -> Answer:
    return Answer(frozenset(addresses), ttl)


def tried(reply: Reply, candidate: str = "a.", six: Reply | None = None) -> CandidateReplies:
    return CandidateReplies(candidate, {Family.IPV4: reply} | ({Family.IPV6: six} if six else {}))


def after(*outcomes: tuple[float, list[CandidateReplies]]) -> CacheEntry:
    """Return the entry after look-ups at the given times."""
    entry = CacheEntry()
    for now, outcome in outcomes:
        entry = updated(entry, outcome, now, TERMS)
    return entry


def test_new_answer_replaces_the_old_one_at_once() -> None:
    assert after((0, [tried(found(ONE))]), (1, [tried(found(TWO))])).addresses == {TWO}


@pytest.mark.parametrize(
    ("reply", "held"),
    [(NO, HOLD_NEGATIVE), (SERVFAIL, HOLD_FAILED), (SILENT, HOLD_FAILED)],
    ids=["denied", "failed", "silent"],
)
def test_without_an_answer_the_last_one_serves_for_a_bounded_time(reply: Reply, held: float) -> None:
    good = (0.0, [tried(found(ONE))])
    assert after(good, (held - 1, [tried(reply)])).addresses == {ONE}
    assert after(good, (held + 1, [tried(reply)])).addresses == set()


def test_the_next_look_up_is_not_later_than_the_end_of_the_hold() -> None:
    entry = after((0, [tried(found(ONE))]), (HOLD_NEGATIVE - 0.25, [tried(NO)]))
    assert entry.refresh == 0.25


def test_never_resolved_is_empty_and_says_why() -> None:
    entry = after((0, [tried(NO, "a.b."), tried(NO, "a.")]))
    assert entry.addresses == set()
    assert entry.problem == "a.b. does not exist; a. does not exist"


@pytest.mark.parametrize(("ttl", "refresh"), [(0, REFRESH_MIN), (5, 5), (86400, REFRESH_MAX)])
def test_refresh_follows_the_time_to_live_within_bounds(ttl: float, refresh: float) -> None:
    assert after((0, [tried(found(ONE, ttl=ttl))])).refresh == refresh


def test_one_family_may_fail_while_the_other_answers() -> None:
    good = (0, [tried(found(ONE), six=found(SIX))])
    assert after(good, (1, [tried(found(TWO), six=SERVFAIL)])).addresses == {TWO, SIX}
    assert after(good, (1, [tried(found(TWO), six=NO)])).addresses == {TWO}, "the record is gone: the name still is"


def test_a_family_that_fails_is_asked_for_again_soon_and_not_after_the_end_of_its_hold() -> None:
    good = (0.0, [tried(found(ONE, ttl=300), six=found(SIX, ttl=300))])
    half = [tried(found(ONE, ttl=300), six=SERVFAIL)]
    assert after(good, (10, half)).refresh == RETRY_MAX
    assert after(good, (HOLD_FAILED - 0.5, half)).refresh == 0.5
    assert after(good, (HOLD_FAILED + 0.5, half)).addresses == {ONE}


def test_a_short_hold_bounds_the_patience_with_a_denied_name_too() -> None:
    entry = updated(CacheEntry(), [tried(found(ONE))], 0, CachePolicy(hold=2))
    assert updated(entry, [tried(NO)], 3, CachePolicy(hold=2)).addresses == set()


def test_what_is_in_use_lapses_on_time_while_name_servers_are_silent() -> None:
    assert expires_at(CacheEntry(), TERMS) is None
    first = after((0, [tried(found(ONE), six=found(SIX))]), (10, [tried(found(ONE), six=SERVFAIL)]))
    end = expires_at(first, TERMS)
    assert end == HOLD_FAILED, "the family that was confirmed first"
    assert without_expired(first, end - 0.1, TERMS).addresses == {ONE, SIX}
    assert without_expired(first, end, TERMS).addresses == {ONE}
    silent = without_expired(first, end + 10, TERMS)
    assert silent.addresses == set()
    assert silent.problem


def test_later_candidate_counts_only_when_earlier_ones_are_denied() -> None:
    first = (0, [tried(found(ONE), "a.first.")])
    other = tried(found(TWO), "a.second.")
    assert after((0, [tried(SERVFAIL, "a.first."), other])).addresses == {TWO}, "nothing was known: better than nothing"
    assert after(first, (1, [tried(SERVFAIL, "a.first."), other])).addresses == {ONE}
    assert after(first, (1, [tried(NO, "a.first."), other])).addresses == {TWO}


def test_earlier_candidate_and_the_one_in_use_count_always() -> None:
    second = (0, [tried(NO, "a.first."), tried(found(TWO), "a.second.")])
    assert after(second, (1, [tried(found(ONE), "a.first.")])).addresses == {ONE}
    doubtful = [tried(SERVFAIL, "a.first."), tried(found(ONE), "a.second.")]
    assert after(second, (1, doubtful)).addresses == {ONE}


def test_held_candidate_gives_way_once_its_time_is_over() -> None:
    doubtful = [tried(SERVFAIL, "a.first."), tried(found(TWO), "a.second.")]
    first = (0.0, [tried(found(ONE), "a.first.")])
    held = after(first, (HOLD_FAILED + 1, doubtful))
    assert held.addresses == set()
    assert updated(held, doubtful, HOLD_FAILED + 2, TERMS).addresses == {TWO}


REPLIES: Any = st.one_of(
    st.just(NO),
    st.just(SERVFAIL),
    st.just(SILENT),
    st.builds(Answer, st.frozensets(st.sampled_from([ONE, TWO]), min_size=1), st.floats(0, 1e6)),
)


@given(st.lists(st.tuples(st.floats(0, 2000), st.lists(REPLIES, min_size=1, max_size=3)), max_size=12))
def test_nothing_serves_that_was_not_answered_within_the_hold(history: list[tuple[float, list[Reply]]]) -> None:
    entry, now = CacheEntry(), 0.0
    answered: dict[Address, float] = {}
    for pause, replies in history:
        now += pause
        outcome = [tried(reply, f"c{position}.") for position, reply in enumerate(replies)]
        for reply in replies:
            if isinstance(reply, Answer):
                answered |= dict.fromkeys(reply.addresses, now)
        entry = updated(entry, outcome, now, TERMS)
        assert all(now - answered[address] <= HOLD_FAILED for address in entry.addresses)
        assert 0 < entry.refresh <= REFRESH_MAX


def test_too_many_addresses_keep_those_in_use() -> None:
    many = [ip_address(f"203.0.113.{last}") for last in range(100)]
    assert select_addresses(many, many[90:], limit=12) == (*many[:2], *many[90:])
    assert select_addresses(reversed(many), [], limit=100) == tuple(many)
