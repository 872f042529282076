"""What a question of the benchmark is: what it measures, how the report shows it, and what was aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.figures import Check

if TYPE_CHECKING:
    from bench.harness import Run


@dataclass(frozen=True, slots=True)
class Metric:
    """What is read off a sample. ``factor`` turns the sample's unit into the one that is printed."""

    name: str
    title: str
    unit: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class SizeTable:
    """A row for each size, a column for each arm, and each arm's ratio to ``base``; drawn as lines over the size.

    An arm without a size (the direct path) stands in every row. ``base`` may be an arm of either kind.
    """

    metric: str
    arms: tuple[str, ...]
    base: str
    sizeless: tuple[str, ...] = ()
    plot: bool = True


@dataclass(frozen=True, slots=True)
class GrowthTable:
    """A row for each size, and for each arm the ratio of that size to its smallest one."""

    metric: str
    arms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArmTable:
    """A row for each arm (and size), a column for each metric with the ratio to ``base``; drawn as bars."""

    metrics: tuple[str, ...]
    arms: tuple[tuple[str, int], ...]
    base: tuple[str, int] | None
    plot: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A row for each arm: smallest, quartiles, largest; drawn as one dot for each sample."""

    metric: str
    arms: tuple[str, ...]
    plot: bool = True


Table = SizeTable | GrowthTable | ArmTable | Distribution


@dataclass(frozen=True, slots=True)
class Question:
    """One question. ``name`` is what --only takes; how it is measured is told in templates/how/NAME.md.

    ``size_means`` heads the column of sizes.
    """

    name: str
    title: str
    size_means: str
    metrics: tuple[Metric, ...]
    tables: tuple[Table, ...]
    goals: tuple[Check, ...]
    measure: Callable[[Run], None]

    def metric(self, name: str) -> Metric:
        """Return the metric of that name."""
        return next(metric for metric in self.metrics if metric.name == name)
