"""Lists of ports as text."""

from __future__ import annotations

import re

from egress_router.policy.values import MAX_PORT, Ports, merge_ports

_ITEM = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?")


def parse_ports(text: str) -> Ports:
    """Return the ports of a list (``443``, ``443,8443``, ``8000-8010``); ValueError says what is wrong with it."""
    ranges: list[tuple[int, int]] = []
    for item in text.split(","):
        matched = _ITEM.fullmatch(item.strip())
        if not matched:
            raise ValueError(f'has "{item}" where a port from 1 to {MAX_PORT} should be')
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if not first <= last <= MAX_PORT:
            raise ValueError(f'has "{item}", which is not a port or range within 1 to {MAX_PORT}')
        ranges.append((first, last))
    return Ports(merge_ports(ranges))
