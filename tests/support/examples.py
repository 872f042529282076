"""How many examples Hypothesis tries: all of them, or with EXAMPLES_PERCENT the share that a quick run has time for.

The checks are the same, and which examples are tried is chosen anew each time: what a quick run does not meet, the next
one or that of everything may.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

#: What `scripts/test fast` sets.
PERCENT = int(os.environ.get("EXAMPLES_PERCENT") or 100)
_USUAL = 100


def share(count: int = _USUAL) -> int:
    """Return how many examples are tried where ``count`` would be."""
    return max(1, count * PERCENT // 100)


def examples(count: int, **more: Any) -> settings:
    """Return the settings of a test that tries ``count`` examples."""
    return settings(max_examples=share(count), **more)


def load_profile() -> None:
    """Set what holds for all tests: the same examples on every run of CI, so that a change is judged by what it does,
    and new ones on every other run.

    No deadline: the time of one example says nothing on a shared machine. No database: nothing is left behind.
    """
    settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=share())
    settings.register_profile("local", deadline=None, database=None, max_examples=share())
    settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")
