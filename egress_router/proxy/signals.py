"""Signals as something to wait for in a selector, and to read in the loop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from types import TracebackType

#: For the children in force.
FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, *FORWARDED)


class Signals:
    """Catches the supervisor's signals as long as it is entered; then the former handlers are back.

    ``fileno`` is readable when one has come (signal.set_wakeup_fd).
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._ours, self._kernel = socket.socketpair()
        for end in (self._ours, self._kernel):
            end.setblocking(False)

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in _CAUGHT}
        self._old_wakeup = signal.set_wakeup_fd(self._kernel.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._ours.close()
        self._kernel.close()

    def _note(self, number: int, _: object) -> None:
        self._received.append(number)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._ours.fileno()

    def take(self) -> Sequence[int]:
        """Return what has come since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._ours.fileno(), 4096)
        received, self._received = self._received, []
        return received
