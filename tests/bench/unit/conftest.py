"""A question, and results of it, small enough to check by hand."""

from __future__ import annotations

import pytest

from bench.figures import Check, Ratio, Samples, Value
from bench.harness import Run
from bench.question import ArmTable, Distribution, GrowthTable, Metric, Question, SizeTable
from bench.results import Measured, Results


def measure(_run: Run) -> None:
    raise AssertionError("a unit test measures nothing")


@pytest.fixture
def question() -> Question:
    return Question(
        # Its text is one of those that exist.
        name="start-up",
        title="Things done",
        size_means="things",
        metrics=(Metric("wall", "Time", "ms", 1e3), Metric("lost", "lost", "")),
        tables=(
            SizeTable("wall", ("ours",), "plain", sizeless=("plain",)),
            GrowthTable("wall", ("ours",)),
            ArmTable(("wall", "lost"), (("plain", 0), ("ours", 1)), ("plain", 0), plot="wall"),
            Distribution("lost", ("plain",)),
        ),
        goals=(
            Check(Ratio("wall", "ours", "plain", 10), "twice plain", at_most=2.5),
            Check(Value("wall", "ours", 10), "below 3 ms", at_most=0.003),
            Check(Value("lost", "plain", statistic="high"), "loses nothing", at_most=0),
            Check(Value("wall", "ours", 1000), "never asked", at_most=1),
        ),
        measure=measure,
    )


@pytest.fixture
def results() -> Results:
    samples = Samples()
    for wall, ten, base in ((0.001, 0.004, 0.002), (0.002, 0.006, 0.002), (0.003, 0.005, 0.002)):
        samples.add("ours", 1, "wall", wall)
        samples.add("ours", 10, "wall", ten)
        samples.add("plain", 0, "wall", base)
    for lost in (0, 4, 1, 2):
        samples.add("plain", 0, "lost", lost)
    measured = Measured(samples, "2026-01-02T03:04Z", 90.0, 0.5, complete=True)
    return Results(machine={"cores": 2, "kernel": "6.1"}, questions={"start-up": measured})
