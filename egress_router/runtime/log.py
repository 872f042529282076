"""The log: standard error, one line an event, text for people or JSON for collectors."""

from __future__ import annotations

import json
import logging
import select
import sys
from datetime import UTC, datetime
from typing import TextIO

from egress_router.model.log import LogFormat, LogSettings

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
