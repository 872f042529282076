"""Drawings of a report's tables, as SVG whose bytes depend on the results alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import Samples, Value
from bench.question import ArmTable, Distribution, Metric, Question, SizeTable, Table
from bench.report import plot_name
from bench.results import Results

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "egress-router",
    # Text stays text: small files, and readers' own fonts.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    # Told apart without colours too, by the markers below; the colours are Okabe and Ito's.
    "axes.prop_cycle": cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]),
}
MARKERS = "osD^vP"
WIDTH = 7.2


def draw(questions: Mapping[str, Question], results: Results) -> dict[str, str]:
    """Return SVG texts by the names that the report refers to."""
    found = {}
    with mpl.rc_context(rc=STYLE):
        for name, measured in results.questions.items():
            question = questions[name]
            for number, table in enumerate(question.tables):
                figure = draw_table(question, table, measured.samples)
                if figure is not None:
                    found[plot_name(question, number)] = as_svg(figure)
    return found


def draw_table(question: Question, table: Table, samples: Samples) -> Figure | None:
    """Return a table's drawing, None for one that has none or was not measured."""
    if isinstance(table, SizeTable) and table.plot and samples.sizes(table.metric, table.arms):
        return _lines(question, table, samples)
    if isinstance(table, Distribution) and table.plot and any(samples.of(arm, 0, table.metric) for arm in table.arms):
        return _dots(question.metric(table.metric), table, samples)
    if isinstance(table, ArmTable) and table.plot:
        return _bars(question.metric(table.plot), table, samples)
    return None


def as_svg(figure: Figure) -> str:
    """Return a figure as SVG without a date, and close it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _axes(metric: Metric, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    axes.set_title(f"{metric.title} ({metric.unit})" if metric.unit else metric.title)
    return figure, axes


def _lines(question: Question, table: SizeTable, samples: Samples) -> Figure:
    metric = question.metric(table.metric)
    figure, axes = _axes(metric, 3.2)
    sizes = samples.sizes(table.metric, table.arms)
    for arm, marker in zip(table.arms, MARKERS, strict=False):
        measured = [(size, Value(table.metric, arm, size).spread(samples)) for size in sizes]
        points = [(size, found) for size, found in measured if found is not None]
        middle = [found.median * metric.factor for _, found in points]
        below = [(found.median - found.low) * metric.factor for _, found in points]
        above = [(found.high - found.median) * metric.factor for _, found in points]
        axes.errorbar([size for size, _ in points], middle, (below, above), label=arm, marker=marker, capsize=2)
    for arm in table.sizeless:
        found = Value(table.metric, arm).spread(samples)
        if found is not None:
            axes.axhline(found.median * metric.factor, color="#555555", linestyle="--", label=arm)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(question.size_means)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _dots(metric: Metric, table: Distribution, samples: Samples) -> Figure:
    figure, axes = _axes(metric, 0.5 + 0.5 * len(table.arms))
    for row, arm in enumerate(table.arms):
        values = [value * metric.factor for value in samples.of(arm, 0, table.metric)]
        # Side by side where they would hide each other, the same way each time.
        heights = [row + 0.12 * (number % 3 - 1) for number in range(len(values))]
        axes.plot(sorted(values), heights, "o", markersize=4, alpha=0.7)
    axes.set_yticks(range(len(table.arms)), table.arms)
    axes.set_ylim(len(table.arms) - 0.5, -0.5)
    axes.set_xlim(left=0)
    return figure


def _bars(metric: Metric, table: ArmTable, samples: Samples) -> Figure | None:
    found = [(arm, size, Value(metric.name, arm, size).spread(samples)) for arm, size in table.arms]
    bars = [(f"{arm}, {size:,}" if size else arm, item) for arm, size, item in found if item is not None]
    if not bars:
        return None
    figure, axes = _axes(metric, 0.6 + 0.3 * len(bars))
    middle = [item.median * metric.factor for _, item in bars]
    errors = (
        [(item.median - item.low) * metric.factor for _, item in bars],
        [(item.high - item.median) * metric.factor for _, item in bars],
    )
    axes.barh([name for name, _ in bars], middle, xerr=errors, height=0.6, error_kw={"elinewidth": 1, "capsize": 2})
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure
