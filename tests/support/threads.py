"""Threads with an owner where a test stands in for the process."""

from __future__ import annotations

from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads


def threads() -> Threads:
    """Return those of a loop that nobody turns."""
    return Threads(Loop())
