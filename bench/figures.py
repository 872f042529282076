"""Samples, and what is said about them: medians, spreads, and ratios of neighbouring samples. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What a sample is of: one way of doing it, how many destinations, lines or pods (0: not a matter of size), and
    what was read off.
    """

    arm: str
    size: int
    metric: str


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the extremes and the quartiles around it."""

    median: float
    low: float
    quarter: float
    three_quarters: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread:
    """Return the spread of values. Raises ValueError when there are none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no samples")
    quarter, median, three = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return Spread(median, ordered[0], quarter, three, ordered[-1], len(ordered))


def pair_ratios(ours: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return ours / base of each round: what one round does to both cancels out.

    Rounds without a partner (a run that was cut short) are left out, and so is what has a base of zero.
    """
    return [our / other for our, other in zip(ours, base, strict=False) if other]


@dataclass(slots=True)
class Samples:
    """All samples of one question, in the order of the rounds."""

    values: dict[Key, list[float]] = field(default_factory=dict)

    def add(self, arm: str, size: int, metric: str, value: float) -> None:
        """Add the sample of one round."""
        self.values.setdefault(Key(arm, size, metric), []).append(value)

    def of(self, arm: str, size: int, metric: str) -> list[float]:
        """Return the samples, none when nothing was measured."""
        return self.values.get(Key(arm, size, metric), [])

    def sizes(self, metric: str, arms: Iterable[str]) -> list[int]:
        """Return the sizes at which any of these arms was measured, ascending."""
        wanted = set(arms)
        return sorted({key.size for key in self.values if key.metric == metric and key.arm in wanted})

    def as_json(self) -> list[dict[str, Any]]:
        """Return rows for results.json, sorted."""
        return [
            {"arm": key.arm, "size": key.size, "metric": key.metric, "samples": [rounded(item) for item in values]}
            for key, values in sorted(self.values.items())
        ]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> Samples:
        """Return what ``as_json`` wrote."""
        return cls({Key(row["arm"], row["size"], row["metric"]): list(row["samples"]) for row in rows})


def rounded(value: float) -> float:
    """Return a value with the digits that a measurement has: six."""
    return float(f"{value:.6g}")


@dataclass(frozen=True, slots=True)
class Value:
    """The samples of one arm; ``statistic`` names the field of Spread that counts."""

    metric: str
    arm: str
    size: int = 0
    statistic: str = "median"

    def spread(self, samples: Samples) -> Spread | None:
        """Return the spread, None when it was not measured."""
        values = samples.of(self.arm, self.size, self.metric)
        return spread(values) if values else None

    def __str__(self) -> str:
        which = "" if self.statistic == "median" else f", {self.statistic}"
        return f"{self.metric} of {self.arm}{sized(self.size)}{which}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """An arm's samples divided by those of another arm, or of the same one at another size, round by round."""

    metric: str
    arm: str
    base: str
    size: int = 0
    base_size: int = 0
    statistic: str = "median"

    def spread(self, samples: Samples) -> Spread | None:
        """Return the spread of the rounds' ratios, None when one of both was not measured."""
        ratios = pair_ratios(
            samples.of(self.arm, self.size, self.metric), samples.of(self.base, self.base_size, self.metric)
        )
        return spread(ratios) if ratios else None

    def __str__(self) -> str:
        base = f"{self.base}{sized(self.base_size)}" if self.base != self.arm else f"itself{sized(self.base_size)}"
        return f"{self.metric}: {self.arm}{sized(self.size)} / {base}"


def sized(size: int) -> str:
    """Return " at 10,000" for a size, nothing where there is none."""
    return f" at {size:,}" if size else ""


@dataclass(frozen=True, slots=True)
class Check:
    """A figure with a limit: a stated goal, or a margin that a change must not pass."""

    what: Value | Ratio
    text: str
    at_least: float | None = None
    at_most: float | None = None

    def found(self, samples: Samples) -> Spread | None:
        """Return what was measured."""
        return self.what.spread(samples)

    def figure(self, samples: Samples) -> float | None:
        """Return the figure that is held against the limit."""
        found = self.found(samples)
        return None if found is None else float(getattr(found, self.what.statistic))

    def holds(self, samples: Samples) -> bool | None:
        """Return whether the figure keeps to its limits, None when it was not measured."""
        figure = self.figure(samples)
        if figure is None:
            return None
        return not (
            (self.at_least is not None and figure < self.at_least)
            or (self.at_most is not None and figure > self.at_most)
        )

    @property
    def limit(self) -> str:
        """The limits as text, such as "≥ 0.9"."""
        limits = [(self.at_least, "≥"), (self.at_most, "≤")]
        return " and ".join(f"{sign} {value:g}" for value, sign in limits if value is not None)
