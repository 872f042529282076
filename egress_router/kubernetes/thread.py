"""Threads for what goes on while a process stays: its runtime starts and owns them, and this package sees no more of it
than this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

#: Called by a thread again and again, so that everybody sees that it is not stuck.
Heartbeat = Callable[[], None]


class StartThread(Protocol):
    """Starts a thread that somebody watches: one that fails is seen, and begun anew or the end of the process."""

    def __call__(self, name: str, target: Callable[[Heartbeat], None], *, limit: float) -> threading.Thread:
        """Run ``target`` in a thread; it calls what it is given at least every ``limit`` seconds."""


def pause(stopping: threading.Event, seconds: float, beat: Heartbeat, most: float = 10.0) -> bool:
    """Wait for ``seconds`` or until ``stopping`` is set, with a heartbeat every ``most`` seconds; return whether it
    is set.
    """
    while seconds > most:
        beat()
        if stopping.wait(most):
            return True
        seconds -= most
    beat()
    return stopping.wait(max(0.0, seconds))
