"""When something counts as reachable: one good answer at first, then a few misses in a row to lose it and a few good
answers in a row to get it back. Pure.
"""

from __future__ import annotations

from egress_router.records import dataclass


@dataclass(slots=True)
class Reachability:
    """Counts probes. ``up`` is None until the first good answer, or until ``failures`` misses."""

    failures: int = 3
    successes: int = 2
    up: bool | None = None
    missed: int = 0
    answered: int = 0

    def note(self, *, answer: bool, good: bool = True) -> bool:
        """Take the outcome of a probe; return whether ``up`` has changed. An answer that is not ``good`` is no miss,
        and brings nothing back.
        """
        before = self.up
        self.missed = 0 if answer else self.missed + 1
        self.answered = self.answered + 1 if answer and good else 0
        if self.missed >= self.failures:
            self.up = False
        elif self.answered >= (1 if self.up is None else self.successes):
            self.up = True
        return self.up != before
