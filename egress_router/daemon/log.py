"""The log of every process that stays, and lines on their way to a descriptor that may stop taking them."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from egress_router.config.settings import LogFormat, LogSettings

# The log: standard error, one line an event, text for people or JSON for collectors.

#: How long a message may wait for a stalled reader.
PATIENCE_MS = 1000

LOGGER = logging.getLogger("egress_router")


class TextFormatter(logging.Formatter):
    """``LEVEL message``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return f"{record.levelname.lower()}: {record.getMessage()}"


class JsonFormatter(logging.Formatter):
    """One JSON object: ``time`` (RFC 3339, UTC), ``level``, ``message``; control characters are escaped by JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, "level": record.levelname.lower(), "message": record.getMessage()})


class PatientHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream whose reader may stall, and waits for it once: what comes while it goes on stalling is lost,
    and counted in the next message. A process that stays must not stop for want of a reader.
    """

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or count it."""
        if not self._taken():
            self.lost += 1
            return
        if self.lost:
            text = f"{self.lost} messages were lost: nobody read them"
            self.lost = 0
            super().emit(logging.LogRecord(record.name, logging.WARNING, record.pathname, 0, text, None, None))
        super().emit(record)

    def _taken(self) -> bool:
        """Whether the stream takes a message of a usual size (PIPE_BUF, 4 KiB) without waiting any longer."""
        try:
            descriptor = self.stream.fileno()
        except (OSError, ValueError):
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(0 if self.lost else PATIENCE_MS))


def set_up_log(settings: LogSettings) -> None:
    """Send the log to standard error as ``settings`` say."""
    handler = PatientHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format is LogFormat.JSON else TextFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(settings.level.upper())


def logs_json() -> bool:
    """Whether the log has been set up to write JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in LOGGER.handlers)


# Lines on their way to a descriptor that may stop taking them.
#
# Whoever reads the container's log may stall (a full disk, a runtime that hangs). A proxy that waited for it would stop
# serving, so lines wait here, up to a bound; what does not fit any more is dropped and counted.

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
