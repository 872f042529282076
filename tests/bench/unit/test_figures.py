"""Medians, spreads, ratios of pairs, limits."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Check, Ratio, Samples, Spread, Value, pair_ratios, spread

FIGURES = st.lists(st.floats(0.001, 1e6), min_size=1)


def test_spread() -> None:
    assert spread([5, 1, 4, 2, 3]) == Spread(3, 1, 2, 4, 5, 5)
    assert spread([7]) == Spread(7, 7, 7, 7, 7, 1)
    with pytest.raises(ValueError, match="no samples"):
        spread([])


@given(FIGURES)
def test_spread_is_ordered_and_holds_the_median(values: list[float]) -> None:
    found = spread(values)
    assert found.low <= found.quarter <= found.median <= found.three_quarters <= found.high
    assert found.median == pytest.approx(statistics.median(values))


def test_a_ratio_is_one_of_pairs_not_of_medians() -> None:
    # The machine was ten times slower in the second round, for both.
    assert pair_ratios([2, 20, 2], [1, 10, 1]) == [2, 2, 2]
    # A round that was cut short, and a base of nothing.
    assert pair_ratios([2, 4, 6], [1, 0]) == [2]


@given(FIGURES, st.floats(0.01, 100))
def test_what_slows_a_round_cancels_out(values: list[float], times: float) -> None:
    assert spread(pair_ratios([times * value for value in values], values)).median == pytest.approx(times)


def test_samples_survive_their_file() -> None:
    samples = Samples()
    samples.add("b", 10, "wall", 1 / 3)
    samples.add("a", 1, "wall", 2)
    samples.add("b", 10, "wall", 1234567.0)
    again = Samples.from_json(samples.as_json())
    assert again.of("b", 10, "wall") == [0.333333, 1234570.0]
    assert again.of("a", 1, "wall") == [2]
    assert again.of("a", 1, "cpu") == []
    assert again.sizes("wall", ["a", "b"]) == [1, 10]
    assert again.sizes("wall", ["a"]) == [1]


@pytest.mark.parametrize(
    ("limits", "holds"),
    [
        ({"at_most": 2.0}, True),
        ({"at_most": 1.9}, False),
        ({"at_least": 2.0}, True),
        ({"at_least": 2.1}, False),
        ({"at_least": 1.0, "at_most": 1.5}, False),
    ],
)
def test_limits(limits: dict[str, float], holds: bool) -> None:
    samples = Samples()
    for ours, base in ((2, 1), (4, 2), (9, 3)):
        samples.add("ours", 0, "wall", ours)
        samples.add("base", 0, "wall", base)
    assert Check(Ratio("wall", "ours", "base"), "", **limits).holds(samples) is holds


def test_the_worst_counts_where_the_worst_is_asked_for() -> None:
    samples = Samples()
    for lost in (0, 0, 0, 5):
        samples.add("ours", 0, "lost", lost)
    assert Check(Value("lost", "ours"), "", at_most=0).holds(samples) is True
    assert Check(Value("lost", "ours", statistic="high"), "", at_most=0).holds(samples) is False
    assert Check(Value("lost", "nobody"), "", at_most=0).holds(samples) is None


def test_names() -> None:
    assert str(Ratio("cpu", "ours", "plain", 10_000, 10_000)) == "cpu: ours at 10,000 / plain at 10,000"
    assert str(Ratio("cpu", "ours", "ours", 10, 1)) == "cpu: ours at 10 / itself at 1"
    assert str(Value("lost", "ours", statistic="high")) == "lost of ours, high"
    assert Check(Value("lost", "ours"), "", at_least=0.5, at_most=2).limit == "≥ 0.5 and ≤ 2"
