"""A wall clock that is set back."""

from __future__ import annotations

import pytest

from egress_router.daemon.clock import SetBack


@pytest.mark.parametrize(("step", "found"), [(0, 0), (-1, 0), (-1.5, 0), (3600, 0), (-3600, 3600), (-2.5, 2.5)])
def test_a_step(step: float, found: float) -> None:
    wall, monotonic = [1_000_000.0], [50.0]
    clock = SetBack(lambda: wall[0], lambda: monotonic[0])
    wall[0] += 0.5
    monotonic[0] += 0.5
    assert clock.seconds() == 0
    wall[0] += 0.5 + step
    monotonic[0] += 0.5
    assert clock.seconds() == found
    assert clock.seconds() == 0, "told once"
