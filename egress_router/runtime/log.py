"""The log: standard error, one line an event, text for people or JSON for collectors."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from egress_router.model.log import LogFormat, LogSettings

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


def set_up_log(settings: LogSettings) -> None:
    """Send the log to standard error as ``settings`` say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format is LogFormat.JSON else TextFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(settings.level.upper())


def logs_json() -> bool:
    """Whether the log has been set up to write JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in LOGGER.handlers)
