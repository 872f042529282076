"""How to log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LogFormat(StrEnum):
    """One line of text, or one JSON object, per event."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What is worth logging, and more."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Format and threshold of the log on standard error."""

    format: LogFormat
    level: LogLevel
