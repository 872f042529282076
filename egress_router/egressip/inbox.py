"""Where threads and signal handlers leave word for a loop that waits in select(2)."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from contextlib import suppress


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
