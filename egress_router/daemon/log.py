"""The log of every process that stays, and lines on their way to a descriptor that may stop taking them."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from egress_router.config.settings import LogFormat, LogSettings
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.errors import MOST_PROBLEMS, Problem
from egress_router.postponed import postponed

with postponed("traceback"):
    import logging

#: Bytes of access log that may wait for a reader; about two seconds of the busiest HTTP proxy.
WAITING = 4 << 20
#: Bytes of our own messages that may wait.
MESSAGES_WAITING = 256 << 10
#: A process that ends waits so long for the reader of its last messages, and of its last lines of the access log.
LAST_MESSAGES_SECONDS = 0.2
#: While there is nothing to write, or nobody reads, the thread turns so often.
TURN_SECONDS = 5.0

LOGGER = logging.getLogger("egress_router")


class TextFormatter(logging.Formatter):
    """``LEVEL message``, and the traceback of an error that nobody foresaw."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object: ``time`` (RFC 3339, UTC), ``level``, ``message``, ``traceback`` if there is one; control
    characters are escaped by JSON.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        moment = f"{seconds}.{int(record.msecs):03d}+00:00"
        event = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event)


class LogOutput:
    """Writes lines to ``descriptor``: at once what it takes without waiting, the rest from a thread of its own; what
    does not fit ``waiting`` bytes is dropped and counted. All methods may be called from any thread.

    Whoever reads a container's log may stall (a full disk, a runtime that hangs). A process that waited for it would
    stop doing its work.

    ``heartbeats`` have the thread's last beat under ``name`` from its start on. However old, it is no reason to end the
    process: what keeps it is beyond the process, and a new one would have the same reader.
    """

    def __init__(
        self,
        descriptor: int,
        waiting: int = WAITING,
        heartbeats: Heartbeats | None = None,
        name: str = "access-log-output",
    ) -> None:
        self.heartbeats = heartbeats or Heartbeats()
        self._name = name
        self._descriptor = descriptor
        self._limit = waiting
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._lines = 0
        self._size = 0
        self._closing = self._writing = False
        self._poll = self._poll_of(descriptor)
        self.lost = 0
        self._thread: threading.Thread | None = None
        #: Lines that are written in front of others, once some were lost.
        self._told = 0

    def put(self, lines: Sequence[bytes]) -> bool:
        """Have ``lines``, without their ends, written; drop and count them, and return False, when too much waits."""
        if not lines:
            return True
        data = b"\n".join(lines) + b"\n"
        with self._changed:
            if not self._waiting and not self._writing:
                data = self._write_now(data)
                if not data:
                    return True
            if self._size + len(data) > self._limit:
                self.lost += len(lines)
                return False
            self._waiting.append(data)
            self._size += len(data)
            self._lines += len(lines)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def flush(self, seconds: float) -> None:
        """Wait, for at most ``seconds``, until all that waits is written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._writing, seconds)

    def close(self, seconds: float) -> None:
        """Write what waits, for at most ``seconds``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def forget(self) -> None:
        """Begin anew in a forked child: what waits is its parent's, and so is the thread."""
        self._changed = threading.Condition()
        self.heartbeats = Heartbeats()
        self._poll = self._poll_of(self._descriptor)
        self._waiting.clear()
        self._size = self._lines = 0
        self._writing = False
        self._thread = None

    @staticmethod
    def _poll_of(descriptor: int) -> select.poll:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return poll

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

    def _beat(self) -> None:
        self.heartbeats.watch(self._name, float("inf"))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._beat()
                while not self._changed.wait_for(lambda: self._waiting or self._closing, TURN_SECONDS):
                    self._beat()
                data, lines = b"".join(self._waiting), self._lines
                self._waiting.clear()
                self._size = self._lines = 0
                self._writing = bool(data)
            if not data:
                self.heartbeats.forget(self._name)
                return
            written = self._write(data)
            with self._changed:
                self._writing = False
                self.lost += 0 if written else lines
                self._changed.notify_all()
            if written:
                self.reader_is_back()

    def reader_is_back(self) -> None:
        """Tell how much was lost; only now, as our messages may have the same reader."""
        if self.lost > self._told:
            LOGGER.warning("%d lines of the access log were lost: nobody read them", self.lost - self._told)
            self._told = self.lost

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long it takes; return False when nobody will ever read it."""
        try:
            while data:
                self._beat()
                if self._poll.poll(TURN_SECONDS * 1000):
                    data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]
        except OSError:
            return False
        return True


class _Messages(LogOutput):
    """Our own messages: what was lost is told in front of the next one, see LogHandler."""

    def reader_is_back(self) -> None:
        pass


class LogHandler(logging.Handler):
    """Writes messages to a stream whose reader may stall; nobody waits for it. What is lost is counted in front of the
    next message that is not.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lost = 0
        self._output: LogOutput | None = None
        try:
            self._output = _Messages(stream.fileno(), MESSAGES_WAITING, name="log-output")
        except (OSError, ValueError):
            # A stream without a descriptor keeps nobody waiting.
            return
        os.register_at_fork(after_in_child=self._output.forget)

    def show_beats(self, heartbeats: Heartbeats) -> None:
        """Have ``heartbeats`` show when its thread, if there is one, last turned."""
        if self._output is not None:
            self._output.heartbeats = heartbeats

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or count it."""
        lines = [self.format(record)]
        if self._lost:
            text = f"{self._lost} messages were lost: nobody read them"
            lost = logging.LogRecord(record.name, logging.WARNING, record.pathname, 0, text, None, None)
            lines.insert(0, self.format(lost))
        if self._output is None:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        elif self._output.put([line.encode(errors="backslashreplace") for line in lines]):
            self._lost = 0
        else:
            self._lost += 1

    def flush(self) -> None:
        """Wait a moment for the reader; the interpreter calls it at its end."""
        if self._output is not None:
            self._output.flush(LAST_MESSAGES_SECONDS)


def set_up_log(settings: LogSettings) -> None:
    """Send the log to standard error as ``settings`` say."""
    handler = LogHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format is LogFormat.JSON else TextFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(settings.level.upper())


def show_beats(heartbeats: Heartbeats) -> None:
    """Have ``heartbeats`` show when the thread that writes the log last turned; to be called after ``set_up_log``."""
    for handler in LOGGER.handlers:
        if isinstance(handler, LogHandler):
            handler.show_beats(heartbeats)


def log_warnings(warnings: Sequence[Problem]) -> None:
    """Log the first warnings about a configuration, and how many more there are."""
    for warning in warnings[:MOST_PROBLEMS]:
        LOGGER.warning("%s", warning)
    if len(warnings) > MOST_PROBLEMS:
        LOGGER.warning("and %d more warnings; `egress-router check` has them", len(warnings) - MOST_PROBLEMS)


def logs_json() -> bool:
    """Whether the log has been set up to write JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in LOGGER.handlers)
