"""Pods that wait to start until the nodes that translate them know of them: who is told what, again and again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

#: Until a node says that it translates the pods, it is told again after so long; seconds.
TELL_EVERY = 0.004


class StartingPods:
    """For one thread that sends and receives; ``set`` may be called from any other."""

    def __init__(self, translated: Callable[[Collection[str]], None]) -> None:
        """``translated`` is called in the thread with the pods that a node says it translates."""
        self._translated = translated
        self._lock = threading.Lock()
        self._by_node: dict[str, dict[str, str]] = {}
        self._due = 0.0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self, by_node: Mapping[str, Mapping[str, str]]) -> None:
        """Tell these nodes (by their address) of these pods (what there is to say, by address), from now on, in place
        of what they were told.
        """
        with self._lock:
            self._by_node = {node: dict(pods) for node, pods in by_node.items()}
            self._due = 0.0
        self.wake()

    def wake(self) -> None:
        """Make the descriptor readable."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something new to say."""
        return self._wake

    def woken(self) -> None:
        """Take note that the descriptor was readable."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return

    def seconds_left(self) -> float:
        """Return in how many seconds somebody is to be told; infinity when there is nobody."""
        with self._lock:
            return max(0.0, self._due - time.monotonic()) if self._by_node else float("inf")

    def due(self) -> dict[str, dict[str, str]]:
        """Return who is to be told what now."""
        with self._lock:
            now = time.monotonic()
            if not self._by_node or now < self._due:
                return {}
            self._due = now + TELL_EVERY
            return {node: dict(pods) for node, pods in self._by_node.items()}

    def heard(self, node: str, sources: Mapping[str, str]) -> None:
        """Take in what a node says that it translates pods to (empty: it does not)."""
        with self._lock:
            waiting = self._by_node.get(node)
            if waiting is None:
                return
            found = [pod for pod in waiting if sources.get(pod)]
            for pod in found:
                del waiting[pod]
            if not waiting:
                del self._by_node[node]
        if found:
            self._translated(found)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._wake)
