"""The pipe that children write their access log to, read by a thread in batches of whole lines."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import threading
import time
from collections.abc import Callable

from egress_router.daemon.heartbeat import STUCK_SECONDS, Heartbeats

log = logging.getLogger(__name__)

CHUNK = 1 << 16
#: Bytes that a child may be ahead of us; the most that an unprivileged process may ask for. Squid waits when it is
#: full, HAProxy drops lines.
PIPE_BYTES = 1 << 20
#: Lines that come in this time are read together: where few come, and of a busy child, of which more than FEW came.
GATHER_SECONDS, BUSY_SECONDS, FEW = 0.01, 0.05, 20
#: The thread turns so often while no child writes.
TURN_SECONDS = 5.0


class LinePipe:
    """``write_end`` is for children; ``take`` gets every batch of lines, without their ends, in the thread called
    ``name``, whose beats ``heartbeats`` have: a child that nobody reads stops serving or loses lines.
    """

    def __init__(
        self, take: Callable[[list[bytes]], None], heartbeats: Heartbeats | None = None, name: str = "access-log"
    ) -> None:
        self._heartbeats = heartbeats or Heartbeats()
        self._name = name
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # A user with many pipes gets one of two pages, and no larger one (pipe(7), pipe-user-pages-soft).
        self._much = min(CHUNK, fcntl.fcntl(self.write_end, fcntl.F_GETPIPE_SZ) // 4)
        self._take = take
        self._thread = threading.Thread(target=self._copy, name=name, daemon=True)
        self._thread.start()

    def started(self) -> None:
        """Close our write end: the only child has its own now, and the thread ends when that is closed."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def finish(self, seconds: float) -> None:
        """Wait, at most so long, until all that the ended children wrote is taken."""
        self.started()
        self._thread.join(seconds)

    def _copy(self) -> None:
        self._heartbeats.watch(self._name, STUCK_SECONDS)
        partial = b""
        while data := self._next():
            *lines, partial = (partial + data).split(b"\n")
            if not lines:
                continue
            try:
                self._take(lines)
            except Exception:
                # A child that nobody reads any more would stop serving.
                log.exception("%d lines of the access log could not be read", len(lines))
            # A busy proxy would wake us for every line. Where so much has come that the pipe may be full soon, or that
            # more waits than is read at once, there is no time to lose.
            if len(data) < self._much:
                time.sleep(BUSY_SECONDS if len(lines) > FEW else GATHER_SECONDS)
        os.close(self._read_end)
        self._heartbeats.forget(self._name)

    def _next(self) -> bytes:
        """Wait for what children write; empty when the last one has ended."""
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        self._heartbeats.beat(self._name)
        while not poll.poll(TURN_SECONDS * 1000):
            self._heartbeats.beat(self._name)
        return os.read(self._read_end, CHUNK)
