"""What the answers about ranges tell is true, and nearly always all there is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.policy.codes import BLOCKS, BLOCKS_AT_LEAST, PARTS, NumberedRanges, RangeCode, range_codes
from tests.http_proxy.unit.which import words
from tests.support.examples import examples

#: Rules with so many ranges each.
sizes = st.lists(st.one_of(st.integers(1, 30), st.integers(1, 3000)), min_size=1, max_size=12)


def told(code: RangeCode, held: set[int]) -> tuple[list[set[int]], int | None]:
    """What comes back from Squid's answers: the sets, and the range that is certain and first."""
    asked = NumberedRanges((), (), range(code.count), code)
    said = words(code, held)
    return list(code.holding(said)), asked.line_in(said)


@examples(150)
@given(sizes, st.data())
def test_nothing_false_is_told(counts: list[int], data: st.DataObject) -> None:
    code = range_codes(counts)[data.draw(st.integers(0, len(counts) - 1))]
    held = data.draw(st.sets(st.integers(0, code.count - 1), min_size=1, max_size=6))
    found, first = told(code, held)
    assert all(some & held for some in found)
    assert set().union(*found) >= held
    assert first is None or first in held
    if len(held) == 1 or code.size == 1:
        assert first == min(held)


@pytest.mark.parametrize("count", [BLOCKS, 3000, 10_000, 50_000])
@pytest.mark.parametrize("several", [2, 3, 8])
def test_the_first_is_told(count: int, several: int) -> None:
    """Taken by chance, or beside each other."""
    (code,) = range_codes([count])
    chance = random.Random(count * several)
    missed = 0
    for turn in range(100):
        start = chance.randrange(count - several)
        held = set(range(start, start + several) if turn % 2 else chance.sample(range(count), several))
        _, first = told(code, held)
        assert first in held
        missed += first != min(held)
    assert missed <= (0 if several < 8 else 3), missed


@given(sizes)
def test_all_rules_together_stay_small(counts: list[int]) -> None:
    codes = range_codes(counts)
    assert sum(code.blocks for code in codes) <= BLOCKS + BLOCKS_AT_LEAST * len(counts)
    assert sum(code.parts * len(code.rounds) for code in codes) <= PARTS
    for code in codes:
        assert [number for block in range(code.blocks) for number in code.block(block)] == list(range(code.count))
