"""How long is waited for what goes well but takes its time: longer where the machine itself is slow."""

from __future__ import annotations

import os

#: How many times longer than on a machine of its own; ``scripts/test-kernels`` sets it where a processor is software.
FACTOR = float(os.environ.get("LAB_PATIENCE", "1"))


def patient(seconds: float) -> float:
    """Return how many seconds to wait here for what should take at most ``seconds``.

    For ends of commands and answers of helpers. Not for what a test measures, nor for silence that it waits for.
    """
    return seconds * FACTOR
