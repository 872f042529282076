"""A strict reader of durations."""

from __future__ import annotations

import re

from egress_router.config.fields import Wrong

_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})([smhd]?)", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
EXPECTED_DURATION = "a number of seconds, or one with a unit, such as 90s, 15m, 1h or 2d"


def duration(text: str, least: int, most: int) -> int | Wrong:
    """Read ``N`` or ``N`` with s, m, h or d as whole seconds from ``least`` to ``most``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return Wrong(f'"{text}" is not a duration')
    seconds = int(match[1]) * _SECONDS[match[2]]
    if not least <= seconds <= most:
        return Wrong(f'"{text}" is not between {least} s and {most} s')
    return seconds
