"""When something counts as reachable: one answer at first, then a few misses in a row to lose it and a few answers in a
row to get it back.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Reachability:
    """Counts probes. ``up`` is None until the first answer, or until ``failures`` misses."""

    failures: int = 3
    successes: int = 2
    up: bool | None = None
    missed: int = 0
    answered: int = 0

    def note(self, *, answer: bool) -> bool:
        """Take the outcome of a probe; return whether ``up`` has changed."""
        before = self.up
        if answer:
            self.answered, self.missed = self.answered + 1, 0
            if self.up is None or self.answered >= self.successes:
                self.up = True
        else:
            self.answered, self.missed = 0, self.missed + 1
            if self.missed >= self.failures:
                self.up = False
        return self.up != before
