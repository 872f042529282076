"""Who was refused what, lately."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from egress_router.records import dataclass

#: At most so many are remembered; the one that was not seen for the longest time goes for the next.
MOST = 200


@dataclass(frozen=True, slots=True)
class Refusal:
    """``client`` asked for ``target``, and ``why`` it was refused, such as a line and its text. Seen ``count`` times,
    the last time at ``at`` (seconds since the epoch).
    """

    client: str
    target: str
    why: str
    count: int
    at: float


class Refusals:
    """Remembers the last ones; all methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str, str], tuple[int, float]] = {}

    def add(self, refused: Iterable[tuple[str, str, str]]) -> None:
        """Take notice of refusals: client, target, why."""
        now = self._clock()
        with self._lock:
            for key in refused:
                count, _ = self._found.pop(key, (0, 0.0))
                self._found[key] = (count + 1, now)
            for oldest in list(self._found)[: max(len(self._found) - MOST, 0)]:
                del self._found[oldest]

    def read(self) -> tuple[Refusal, ...]:
        """Return them, the last one first."""
        with self._lock:
            found = list(self._found.items())
        return tuple(Refusal(*key, count, at) for key, (count, at) in reversed(found))
