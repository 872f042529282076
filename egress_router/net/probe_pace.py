"""How soon one that does not answer a probe is asked again, and how long an answer is waited for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: An answer is waited for at least this part of the time between two rounds of probes, at most all of it.
LEAST_PART = 0.25
#: An answer may take so many times as long as the slowest of late.
MARGIN = 2.0
#: How much of the slowest answer is remembered after each round: half of it after 350.
REMEMBERED = 0.998


@dataclass(slots=True)
class Pace:
    """One target. Until it has missed ``misses`` answers in a row, each is asked for again as soon as it is late; who
    has never answered, or is gone, is asked once a round, every ``interval`` seconds (``misses`` 0: so is everybody).

    A late answer, whether the network, the other machine or this one was slow, makes all further ones be waited for
    longer, so that a busy machine is not taken for a dead one for long.
    """

    misses: int
    interval: float
    missed: int = field(init=False)
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self.missed = self._most_missed

    @property
    def _most_missed(self) -> int:
        return 2 * self.misses

    @property
    def hurries(self) -> bool:
        """Whether it is asked again at once when an answer is late."""
        return self.missed < self.misses

    @property
    def patience(self) -> float:
        """How long an answer is waited for; seconds."""
        return max(LEAST_PART * self.interval, MARGIN * self.slowest)

    def answered(self, seconds: float) -> None:
        """Take in how long an answer took. One that was gone for long may have waited for the way to come back, which
        says nothing of its pace.
        """
        if self.missed < self._most_missed:
            self.slowest = max(self.slowest, min(seconds, self.interval / MARGIN))

    def looked(self, *, answered: bool) -> None:
        """Take in what was found at the end of a round, or when an answer was late."""
        self.slowest *= REMEMBERED
        self.missed = 0 if answered else min(self.missed + 1, self._most_missed)


def patience_with(everybody: Iterable[Pace]) -> float:
    """Return how long an answer is waited for, seconds, where one who is late alone is taken for gone and all who are
    late together for a sign that the reason is here: as long as the slowest may take, else the others are late first.
    """
    return max((pace.patience for pace in everybody), default=0.0)


def asked_again(late: Mapping[str, Pace], everybody: Mapping[str, Pace]) -> list[str]:
    """Return whom of ``late``, whose answers are late at this moment, to ask again at once. When they are several, and
    nobody else is left who answers, the reason is likely here, and there is nobody to go to: they are asked in rounds.
    """
    again = [name for name, pace in late.items() if pace.hurries]
    others = any(pace.hurries for name, pace in everybody.items() if name not in late)
    return again if others or len(late) == 1 else []
