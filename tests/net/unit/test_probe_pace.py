"""Who is asked again at once, and how long an answer is waited for."""

from __future__ import annotations

from egress_router.net.probe_pace import Pace, asked_again, patience_with

INTERVAL, MISSES = 0.08, 4


def answering() -> Pace:
    pace = Pace(MISSES, INTERVAL)
    pace.looked(answered=True)
    return pace


def test_only_who_answered_is_asked_again_and_only_until_it_is_gone() -> None:
    pace = Pace(MISSES, INTERVAL)
    assert not pace.hurries, "it has never answered"
    pace.looked(answered=False)
    assert not pace.hurries
    pace.looked(answered=True)
    hurried = []
    for _ in range(6):
        hurried.append(pace.hurries)
        pace.looked(answered=False)
    assert hurried == [True] * MISSES + [False] * 2
    pace.looked(answered=True)
    assert pace.hurries


def test_without_a_number_of_misses_nobody_is_asked_again() -> None:
    pace = Pace(0, INTERVAL)
    for answered in (False, True, True, False):
        assert not pace.hurries
        pace.looked(answered=answered)


def test_quick_answers_are_waited_for_a_quarter_of_a_round() -> None:
    pace = answering()
    for _ in range(1000):
        pace.answered(0.002)
        pace.looked(answered=True)
    assert pace.patience == INTERVAL / 4


def test_a_late_answer_makes_patient_for_a_while_and_never_beyond_a_round() -> None:
    pace = answering()
    pace.answered(0.03)
    assert pace.patience == 0.06
    pace.answered(0.002)
    assert pace.patience == 0.06, "the slowest counts"
    rounds = 0
    while pace.patience > INTERVAL / 4:
        pace.looked(answered=True)
        rounds += 1
    assert 20 < rounds * INTERVAL < 120, "remembered for about a minute"
    pace.answered(5.0)
    assert pace.patience == INTERVAL


def test_an_answer_that_comes_after_it_was_given_up_counts_if_that_was_just_now() -> None:
    """One that stood still for a moment makes patient; what waited for a cable to be plugged in again does not."""
    pace = answering()
    for _ in range(MISSES + 1):
        pace.looked(answered=False)
    pace.answered(0.05)
    assert pace.patience > INTERVAL / 4
    pace = answering()
    for _ in range(3 * MISSES):
        pace.looked(answered=False)
    pace.answered(0.05)
    assert pace.patience == INTERVAL / 4


def test_when_nobody_is_left_who_answers_there_is_no_hurry() -> None:
    """This node's own network stands still for a moment: a tenth of a second of that must not end all connections."""
    late = {"a": answering(), "b": answering()}
    for pace in late.values():
        pace.looked(answered=False)
    gone = Pace(MISSES, INTERVAL)
    assert asked_again(late, late) == []
    assert asked_again(late, {**late, "gone": gone}) == []
    assert asked_again(late, {**late, "c": answering()}) == ["a", "b"]
    assert asked_again({**late, "gone": gone}, {**late, "gone": gone, "c": answering()}) == ["a", "b"]
    alone = {"a": late["a"]}
    assert asked_again(alone, alone) == ["a"], "one alone may be dead"


def test_whoever_may_take_longest_is_waited_for_with_the_others() -> None:
    quick, slow = answering(), answering()
    slow.answered(0.03)
    assert quick.patience < patience_with([quick, slow]) == slow.patience <= INTERVAL
    assert patience_with([]) == 0
