"""Lines on their way to a descriptor that may stop taking them.

Whoever reads the container's log may stall (a full disk, a runtime that hangs). A proxy that waited for it would stop
serving, so lines wait here, up to a bound; what does not fit any more is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

log = logging.getLogger(__name__)

#: Bytes that may wait; about two seconds of the busiest HTTP proxy.
WAITING = 4 << 20


class LogOutput:
    """Writes lines to ``descriptor`` from a thread of its own. All methods may be called from any thread."""

    def __init__(self, descriptor: int, waiting: int = WAITING) -> None:
        self._descriptor = descriptor
        self._limit = waiting
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._lines = 0
        self._size = 0
        self._closing = False
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="log-output", daemon=True)
        self._thread.start()

    def put(self, lines: Sequence[bytes]) -> None:
        """Have ``lines``, without their ends, written; drop and count them when too much is waiting."""
        if not lines:
            return
        data = b"\n".join(lines) + b"\n"
        with self._changed:
            if self._size + len(data) > self._limit:
                self.lost += len(lines)
                return
            self._waiting.append(data)
            self._size += len(data)
            self._lines += len(lines)
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Write what waits, for at most ``seconds``."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        told = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                data, lines = b"".join(self._waiting), self._lines
                self._waiting.clear()
                self._size = self._lines = 0
            if not data:
                return
            if not self._write(data):
                with self._changed:
                    self.lost += lines
            # Told only when the reader is back: our messages may have the same one.
            elif self.lost > told:
                log.warning("%d lines of the access log were lost: nobody read them", self.lost - told)
                told = self.lost

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long it takes; return False when nobody will ever read it."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return False
        return True
