"""A loop whose time passes at once: nothing waits, and what happens in which order can be told."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from egress_router.daemon.loop import Loop


class FakeClock:
    """``now`` is what it says."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeSelector(selectors.SelectSelector):
    """Finds what is ready, and lets the time of ``clock`` pass instead of waiting."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        #: What happens while somebody waits.
        self.meanwhile: Callable[[], None] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.meanwhile is not None:
            self.meanwhile()
        ready = super().select(0)
        if not ready and timeout:
            self._clock.now += timeout
        return ready


def fake_loop(clock: FakeClock | None = None) -> Loop:
    """Return a loop of ``clock``, or of one of its own."""
    clock = clock or FakeClock()
    return Loop(clock, FakeSelector(clock))
