"""Squid's raw access log line (the logformat of squid.conf.j2) → JSON text, with what was decided.

Squid writes percent-encoded fields between spaces, so nothing that a client sends can end a field or a line; strings of
JSON are written by the json module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote


class RawLine(NamedTuple):
    """The fields of squid.conf.j2's logformat, as text."""

    time: str
    client: str
    method: str
    host: str
    port: str
    status: str
    size: str
    duration: str
    rule: str
    at: str
    server: str
    error: str


def parse(raw: str) -> RawLine | None:
    """Return the fields of a raw line; None when it is not one of ours."""
    fields = raw.split()
    return RawLine._make(fields) if len(fields) == len(RawLine._fields) and fields[6].isdecimal() else None


def plain(field: str) -> str | None:
    """Return what a field means; None when it is empty."""
    return None if field == "-" else unquote(field)


class Decided(NamedTuple):
    """What was decided, as the JSON has it, and the members that are the same for all such requests as text: those
    about the target and those about the decision.
    """

    members: Mapping[str, str | int | None]
    target: str
    decision: str


@lru_cache(maxsize=64)
def _second(text: str) -> str:
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=8192)
def _quoted(field: str) -> str:
    return json.dumps(unquote(field))


def entry(raw: RawLine, decided: Decided) -> str | None:
    """Return the JSON text of a raw line; None when it is not one of ours. Little but the numbers is made anew: a busy
    proxy writes thousands a second.
    """
    second, _, fraction = raw.time.partition(".")
    if not (second.isdecimal() and fraction.isdecimal() and raw.status.isdecimal() and raw.duration.isdecimal()):
        return None
    return (
        f'{{"time": "{_second(second)}.{fraction}Z", "client": {_quoted(raw.client)}, "method": {_quoted(raw.method)}, '
        f'{decided.target}, "status": {int(raw.status)}, "bytes": {int(raw.size)}, "duration_ms": {int(raw.duration)}, '
        f"{decided.decision}}}"
    )
