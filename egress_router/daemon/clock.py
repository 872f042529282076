"""Notice that the wall clock was set back."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import suppress

from egress_router.net.closing import Closing

#: Seconds; what NTP does to a clock that runs stays far below between two looks.
LEAST = 2.0

#: linux/timerfd.h; Python has them from 3.13 on.
_TFD_NONBLOCK, _TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
#: The timer is for a time that nobody lives to see: thirty years on.
_NEVER_SECONDS = 10**9


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


class ClockSet(Closing):
    """A descriptor that can be read each time that somebody has set the wall clock, in either direction: a timer of it
    that the kernel cancels then (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).

    OSError where the kernel has none, as sandboxes may not.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.timerfd_create(time.CLOCK_REALTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        # struct itimerspec: the interval and the first time, each seconds and nanoseconds.
        when = (ctypes.c_long * 4)(0, 0, int(time.time()) + _NEVER_SECONDS, 0)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        if self._descriptor < 0 or libc.timerfd_settime(self._descriptor, flags, when, None):
            code = ctypes.get_errno()
            self.close()
            raise OSError(code, os.strerror(code))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def seen(self) -> None:
        """Wait for the next time: it cannot be read any more until then."""
        # ECANCELED is how the kernel says it.
        with suppress(OSError):
            os.read(self._descriptor, 8)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
