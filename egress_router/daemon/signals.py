"""Signals and words of other threads as something that an event loop waits for."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

# Signals as something to wait for in a selector, and to read in the loop.

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


# Where threads and signal handlers leave word for a loop that waits in select(2).


class Inbox:
    """Actions for the loop, and a descriptor that is readable while some wait."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._actions: queue.SimpleQueue[Callable[[], bool]] = queue.SimpleQueue()
        #: Whether ``stop`` was called.
        self.stopping = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._read

    def post(self, action: Callable[[], bool]) -> None:
        """Have the loop call ``action``, from any thread; True means that something must be applied."""
        self._actions.put(action)
        self._wake()

    def stop(self) -> None:
        """Ask the loop to end; safe in a signal handler."""
        self.stopping = True
        self._wake()

    def take(self) -> bool:
        """Call every action that waits; True when one of them wants something applied. Only for the loop."""
        with suppress(BlockingIOError):
            os.read(self._read, 1 << 16)
        changed = False
        while not self._actions.empty():
            changed |= self._actions.get()()
        return changed

    def _wake(self) -> None:
        # A full pipe: the loop is about to wake up anyway.
        with suppress(BlockingIOError):
            os.write(self._write, b"x")
