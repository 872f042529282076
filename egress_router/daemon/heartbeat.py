"""When each loop and thread of a process last showed that it turns, and what became of those that ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from egress_router.records import dataclass

#: A loop or thread that turns every second or faster and has not for so long is stuck.
STUCK_SECONDS = 30.0
#: The loop of a process, as /healthz names it.
MAIN_LOOP = "the loop"


@dataclass(slots=True)
class _Beat:
    at: float
    limit: float
    #: It may stand still until then: time of the clock.
    until: float = 0.0
    failures: int = 0
    last_failure: str = ""
    ended: bool = False


class Heartbeats:
    """Written by the loops and threads themselves, read by whoever answers /healthz. Any thread may call anything."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, _Beat] = {}
        self._lock = threading.Lock()

    def watch(self, name: str, limit: float = STUCK_SECONDS) -> None:
        """Expect a beat of ``name`` at least every ``limit`` seconds from now on."""
        with self._lock:
            known = self._beats.get(name)
            if known is None:
                self._beats[name] = _Beat(self._clock(), limit)
            else:
                known.at, known.limit, known.until, known.ended = self._clock(), limit, 0.0, False

    def beat(self, name: str) -> None:
        """Note that ``name`` turns; nothing is noted of one that is not watched (any more)."""
        beat = self._beats.get(name)
        if beat is not None:
            beat.at, beat.until = self._clock(), 0.0

    def allow(self, name: str, seconds: float) -> None:
        """Expect no beat of ``name`` for so long: it is about to do something that takes its time."""
        beat = self._beats[name]
        beat.at = self._clock()
        beat.until = beat.at + seconds

    def failed(self, name: str, reason: str, *, ended: bool) -> None:
        """Note that an unforeseen error stopped ``name``; ``ended``: it is not started again."""
        with self._lock:
            beat = self._beats.setdefault(name, _Beat(self._clock(), float("inf")))
            beat.failures += 1
            beat.last_failure, beat.ended = reason, ended

    def recovered(self, name: str) -> None:
        """Forget the failures of ``name``."""
        with self._lock:
            if name in self._beats:
                self._beats[name].failures = 0

    def failures(self, name: str) -> int:
        """Return how often ``name`` has failed since it last recovered."""
        with self._lock:
            return self._beats[name].failures if name in self._beats else 0

    def forget(self, name: str) -> None:
        """Expect nothing of ``name`` any more: it ended as it should. Its failures stay known."""
        with self._lock:
            beat = self._beats.get(name)
            if beat is not None and beat.failures:
                beat.limit = float("inf")
            else:
                self._beats.pop(name, None)

    def stuck(self) -> list[str]:
        """Return what is wrong, a sentence each: which loops and threads have ended, and which do not turn."""
        now = self._clock()
        with self._lock:
            beats = list(self._beats.items())
        found = [f"{name} has ended: {beat.last_failure}" for name, beat in beats if beat.ended]
        for name, beat in beats:
            silent = now - max(beat.at, beat.until)
            if not beat.ended and silent > beat.limit:
                found.append(f"{name} has not turned for {silent:.0f} s")
        return found

    def lines(self) -> list[str]:
        """Return a line for each loop and thread: the age of its last beat, its failures."""
        now = self._clock()
        with self._lock:
            beats = sorted(self._beats.items())
        return [f"{name}: {_described(beat, now)}" for name, beat in beats]


def _described(beat: _Beat, now: float) -> str:
    state = "ended" if beat.ended else f"last heartbeat {max(0.0, now - beat.at):.1f} s ago"
    if not beat.failures:
        return state
    return f"{state}, failed {beat.failures} times, the last time by {beat.last_failure}"
