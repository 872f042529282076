"""How fast counters have grown in the last minutes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice

from egress_router.daemon.log import LOGGER
from egress_router.errors import EgressRouterError

#: Seconds between two looks, and how many are remembered: ten minutes.
STEP_SECONDS, STEPS = 10.0, 60
#: Looking takes at most one part in so many of the time.
SHARE = 100
#: Counters whose growth is remembered, the first ones; the others have their totals alone.
MOST = 1000
#: A look that took no longer than this is done anew for whoever asks; seconds.
CHEAP_SECONDS = 0.05


class Rates:
    """Looks at counters now and again; ``read`` returns them by name and may raise EgressRouterError. ``clock`` gives
    monotonic seconds. All methods may be called from any thread.
    """

    def __init__(self, read: Callable[[], Mapping[str, int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._growth: dict[str, deque[float]] = {}
        self._totals: dict[str, int] | None = None
        self._at = 0.0
        self._took = 0.0
        self._steps = 0

    def look(self) -> None:
        """Read the counters and remember by how much each has grown, per second. One that is smaller than before, or
        new, began at nothing. When they cannot be read the step is left out.
        """
        started = self._clock()
        try:
            found = dict(self._read())
        except EgressRouterError as error:
            LOGGER.debug("counters cannot be read: %s", error)
            return
        now = self._clock()
        with self._lock:
            before, seconds = self._totals, started - self._at
            self._totals, self._at, self._took = found, started, now - started
            if before is None or seconds <= 0:
                return
            self._growth = {
                name: self._grown(name, value, before.get(name, 0), seconds)
                for name, value in islice(found.items(), MOST)
            }
            self._steps = min(self._steps + 1, STEPS)

    def _grown(self, name: str, value: int, before: int, seconds: float) -> deque[float]:
        steps = self._growth.get(name)
        if steps is None:
            steps = deque([0.0] * self._steps, maxlen=STEPS)
        steps.append((value - before if value >= before else value) / seconds)
        return steps

    def totals(self) -> dict[str, int]:
        """Return the counters: as they are when that is cheap to know, else as they were at the last look. Raises
        EgressRouterError.
        """
        with self._lock:
            known = self._totals
            if known is not None and self._took > CHEAP_SECONDS:
                return known
        return dict(self._read())

    def of(self, name: str) -> tuple[float, ...]:
        """Return a counter's growth per second in each step so far, the oldest first; () when nothing is known."""
        with self._lock:
            return tuple(self._growth.get(name, ()))

    def keep_looking(self, beat: Callable[[], None]) -> None:
        """Look now and again, without end: the body of a thread."""
        while True:
            beat()
            self.look()
            end = time.monotonic() + max(STEP_SECONDS, SHARE * self._took)
            while (left := end - time.monotonic()) > 0:
                beat()
                time.sleep(min(left, STEP_SECONDS))
