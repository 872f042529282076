"""The frame of a measurement: rounds in which every arm has its turn, progress on standard error, samples kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.figures import Samples

#: The sizes that the report compares, and those of --quick.
SIZES = (1, 10, 100, 1_000, 10_000)
QUICK_SIZES = (1, 10_000)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of doing what is measured; ``measure`` takes one sample of each metric."""

    name: str
    measure: Callable[[], Mapping[str, float]]
    size: int = 0


@dataclass(slots=True)
class Progress:
    """One line on standard error, written over on a terminal."""

    question: str
    number: int
    questions: int
    began: float = field(default_factory=time.monotonic)

    def say(self, what: str) -> None:
        """Show which question, what of it, and the time since the whole began."""
        seconds = int(time.monotonic() - self.began)
        line = f"[{seconds // 60:2}:{seconds % 60:02}] {self.number}/{self.questions} {self.question}: {what}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line[:150]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Run:
    """What a question is measured with. ``program`` is the installed egress-router, as a command."""

    samples: Samples
    progress: Progress
    quick: bool
    program: Sequence[str]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes to measure."""
        return QUICK_SIZES if self.quick else SIZES

    def pick(self, full: float, quick: float) -> float:
        """Return a number of rounds or seconds for the whole run, or for the quick one."""
        return quick if self.quick else full

    def say(self, what: str) -> None:
        """Show what is going on."""
        self.progress.say(what)

    def record(self, arm: str, size: int, figures: Mapping[str, float]) -> None:
        """Keep the samples of one turn."""
        for metric, value in figures.items():
            self.samples.add(arm, size, metric, value)

    def interleave(self, arms: Sequence[Arm], rounds: int) -> None:
        """Give every arm its turn in every round, in an order that turns around each time.

        So what else the machine does meets all arms, and none is always the one that follows a certain other. The whole
        run begins with a turn of each that is no sample and warms up.
        """
        if not self.quick:
            for arm in arms:
                self.say(f"warming up {label(arm)}")
                arm.measure()
        for number in range(1, rounds + 1):
            for arm in arms if number % 2 else reversed(arms):
                self.say(f"round {number} of {rounds}, {label(arm)}")
                self.record(arm.name, arm.size, arm.measure())


def label(arm: Arm) -> str:
    """Return an arm's name with its size."""
    return f"{arm.name} ({arm.size:,})" if arm.size else arm.name
