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
