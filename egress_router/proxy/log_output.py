"""Lines on their way to a descriptor that may stop taking them.

Whoever reads the container's log may stall (a full disk, a runtime that hangs). A proxy that waited for it would stop
serving, so lines wait here, up to a bound; what does not fit any more is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Sequence

log = logging.getLogger(__name__)

#: Bytes that may wait; about two seconds of the busiest HTTP proxy.
WAITING = 4 << 20


class LogOutput:
    """Writes lines to ``descriptor``: at once what it takes without waiting, the rest from a thread of its own. All
    methods may be called from any thread.
    """

    def __init__(self, descriptor: int, waiting: int = WAITING) -> None:
        self._descriptor = descriptor
        self._limit = waiting
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._lines = 0
        self._size = 0
        self._closing = self._writing = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="log-output", daemon=True)
        self._thread.start()

    def put(self, lines: Sequence[bytes]) -> None:
        """Have ``lines``, without their ends, written; drop and count them when too much is waiting."""
        if not lines:
            return
        data = b"\n".join(lines) + b"\n"
        with self._changed:
            if not self._waiting and not self._writing:
                data = self._write_now(data)
                if not data:
                    return
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

    def _write_now(self, data: bytes) -> bytes:
        """Write what the descriptor takes without waiting; return the rest. A pipe that is ready takes PIPE_BUF bytes
        at once (pipe(7)).
        """
        try:
            while data and self._poll.poll(0) == [(self._descriptor, select.POLLOUT)]:
                data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]
        except OSError:
            # The thread finds it too, and counts.
            pass
        return data

    def _run(self) -> None:
        told = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                data, lines = b"".join(self._waiting), self._lines
                self._waiting.clear()
                self._size = self._lines = 0
                self._writing = bool(data)
            if not data:
                return
            written = self._write(data)
            with self._changed:
                self._writing = False
                self.lost += 0 if written else lines
            # Told only when the reader is back: our messages may have the same one.
            if written and self.lost > told:
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
