"""Results → docs/performance.md. Pure: the same results give the same page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.figures import Ratio, Samples, Spread, Value
from bench.question import ArmTable, Distribution, GrowthTable, Metric, Question, SizeTable, Table
from bench.results import Results

TEMPLATES = Path(__file__).with_name("templates")
NONE = "–"


def report(
    questions: Mapping[str, Question], results: Results, history: Sequence[Mapping[str, str]], plots: Collection[str]
) -> str:
    """Return the page. ``plots`` names the drawings that exist, ``history`` is bench/history.json."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # Markdown
    )
    measured = {name: question for name, question in questions.items() if name in results.questions}
    goals = [
        row for question in measured.values() for row in goal_rows(question, results.questions[question.name].samples)
    ]
    return environment.get_template("performance.md.j2").render(
        machine=results.machine,
        quick=results.quick,
        questions=[_section(question, results, plots) for question in measured.values()],
        left_out=[question.title for name, question in questions.items() if name not in measured],
        goals=goals,
        met=sum(row["met"] == "met" for row in goals),
        history=history,
    )


def _section(question: Question, results: Results, plots: Collection[str]) -> dict[str, Any]:
    measured = results.questions[question.name]
    tables = []
    for number, table in enumerate(question.tables):
        lines = table_lines(question, table, measured.samples)
        if lines:
            name = plot_name(question, number)
            tables.append({"heading": heading(question, table), "lines": lines, "plot": name if name in plots else ""})
    return {
        "name": question.name,
        "title": question.title,
        "tables": tables,
        "began": measured.began,
        "minutes": f"{measured.seconds / 60:.1f}",
        "load": f"{measured.load:.1f}",
        "complete": measured.complete,
        "goals": goal_rows(question, measured.samples),
    }


def plot_name(question: Question, table: int) -> str:
    """Return the file name, without its suffix, of the drawing of a question's table."""
    return f"{question.name}-{table + 1}"


def heading(question: Question, table: Table) -> str:
    """Return what stands above a table."""
    if isinstance(table, ArmTable):
        return ""
    metric = question.metric(table.metric)
    unit = f" ({metric.unit})" if metric.unit and metric.unit != "/s" else ""
    if isinstance(table, GrowthTable):
        return f"{metric.title}: each size against the smallest"
    return metric.title + unit


def goal_rows(question: Question, samples: Samples) -> list[dict[str, str]]:
    """Return a row for each goal: text, limit, what was found with its spread, and met, MISSED or not measured."""
    rows = []
    for goal in question.goals:
        metric = question.metric(goal.what.metric)
        found, figure, holds = goal.found(samples), goal.figure(samples), goal.holds(samples)
        factor = 1.0 if isinstance(goal.what, Ratio) else metric.factor
        unit = "" if isinstance(goal.what, Ratio) else metric.unit
        rows.append(
            {
                "question": question.name,
                "text": goal.text,
                "limit": goal_limit(goal.at_least, goal.at_most, factor, unit),
                "found": NONE if found is None or figure is None else f"{number(figure * factor)} {unit}".strip(),
                "spread": NONE if found is None else span(found, factor),
                "met": {True: "met", False: "**missed**", None: "not measured"}[holds],
            }
        )
    return rows


def goal_limit(at_least: float | None, at_most: float | None, factor: float, unit: str) -> str:
    """Return a goal's limits in the unit that is printed."""
    limits = [("≥", at_least), ("≤", at_most)]
    return " ".join(f"{sign} {number(value * factor)} {unit}".strip() for sign, value in limits if value is not None)


def table_lines(question: Question, table: Table, samples: Samples) -> list[str]:
    """Return a table in Markdown, nothing when none of it was measured."""
    if isinstance(table, SizeTable):
        rows = _size_rows(question, table, samples)
    elif isinstance(table, GrowthTable):
        rows = _growth_rows(question, table, samples)
    elif isinstance(table, Distribution):
        rows = _distribution_rows(question, table, samples)
    else:
        rows = _arm_rows(question, table, samples)
    if len(rows) < 2:
        return []
    aligned = ["---" if column == 0 else "---:" for column in range(len(rows[0]))]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], aligned, *rows[1:])]


def _size_rows(question: Question, table: SizeTable, samples: Samples) -> list[list[str]]:
    metric = question.metric(table.metric)
    compared = [arm for arm in table.arms if arm != table.base]
    head = [question.size_means, *table.arms, *table.sizeless, *(f"{arm} / {table.base}" for arm in compared)]
    rows = [head]
    for size in samples.sizes(table.metric, table.arms):
        cells = [_value(samples, arm, size, metric) for arm in table.arms]
        cells += [_value(samples, arm, 0, metric) for arm in table.sizeless]
        base_size = 0 if table.base in table.sizeless else size
        cells += [_ratio(samples, Ratio(table.metric, arm, table.base, size, base_size)) for arm in compared]
        rows.append([f"{size:,}", *cells])
    return rows


def _growth_rows(question: Question, table: GrowthTable, samples: Samples) -> list[list[str]]:
    sizes = samples.sizes(table.metric, table.arms)
    rows = [[question.size_means, *(f"{arm} / itself at {sizes[0]:,}" for arm in table.arms)]] if sizes else [[]]
    for size in sizes[1:]:
        ratios = [_ratio(samples, Ratio(table.metric, arm, arm, size, sizes[0])) for arm in table.arms]
        rows.append([f"{size:,}", *ratios])
    return rows


def _distribution_rows(question: Question, table: Distribution, samples: Samples) -> list[list[str]]:
    metric = question.metric(table.metric)
    rows = [["", "runs", "smallest", "a quarter below", "median", "three quarters below", "largest"]]
    for arm in table.arms:
        found = Value(table.metric, arm).spread(samples)
        if found:
            values = (found.low, found.quarter, found.median, found.three_quarters, found.high)
            rows.append([arm, str(found.count), *(number(value * metric.factor) for value in values)])
    return rows


def _arm_rows(question: Question, table: ArmTable, samples: Samples) -> list[list[str]]:
    metrics = [question.metric(name) for name in table.metrics]
    head = [""]
    for metric in metrics:
        head.append(f"{metric.title} ({metric.unit})" if metric.unit else metric.title)
        head += [f"/ {table.base[0]}"] if table.base else []
    rows = [head]
    for arm, size in table.arms:
        if not any(samples.of(arm, size, metric.name) for metric in metrics):
            continue
        row = [f"{arm}, {size:,}" if size else arm]
        for metric in metrics:
            row.append(_value(samples, arm, size, metric))
            if table.base:
                base, base_size = table.base
                ratio = Ratio(metric.name, arm, base, size, base_size)
                row.append("" if (arm, size) == table.base else _ratio(samples, ratio))
        rows.append(row)
    return rows


def _value(samples: Samples, arm: str, size: int, metric: Metric) -> str:
    found = Value(metric.name, arm, size).spread(samples)
    return number(found.median * metric.factor) if found else NONE


def _ratio(samples: Samples, ratio: Ratio) -> str:
    found = ratio.spread(samples)
    return f"{number(found.median)} ({span(found)})" if found else NONE


def span(found: Spread, factor: float = 1.0) -> str:
    """Return smallest–largest."""
    return f"{number(found.low * factor)}–{number(found.high * factor)}"


def number(value: float) -> str:
    """Return a figure with about three digits, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.2g}"
