"""Notice that the wall clock was set back."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds; what NTP does to a clock that runs stays far below between two looks.
LEAST = 2.0


class SetBack:
    """Compares the wall clock with the monotonic one. A proxy that keeps answers of DNS by the wall clock would keep
    them for as long as the clock was set back.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()

    def seconds(self) -> float:
        """Return by how many seconds the clock was set back since the last call; 0 when it was not."""
        before, self._offset = self._offset, self._wall() - self._monotonic()
        back = before - self._offset
        return back if back > LEAST else 0.0
