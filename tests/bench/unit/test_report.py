"""The page, its tables and drawings, and results.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import plots
from bench.question import Question
from bench.questions import questions
from bench.report import TEMPLATES, number, report, table_lines
from bench.results import Results

CHECKOUT = Path(__file__).parents[3]
HISTORY = [{"figure": "start-up", "before": "2 s", "after": "1 s", "change": "less of it"}]


def test_tables(question: Question, results: Results) -> None:
    samples = results.questions["start-up"].samples
    sizes, growth, arms, distribution = (table_lines(question, table, samples) for table in question.tables)
    assert sizes == [
        "| things | ours | plain | ours / plain |",
        "| --- | ---: | ---: | ---: |",
        "| 1 | 2 | 2 | 1 (0.5–1.5) |",
        "| 10 | 5 | 2 | 2.5 (2–3) |",
    ]
    assert growth[2:] == ["| 10 | 3 (1.67–4) |"]
    assert arms[0] == "|  | Time (ms) | / plain | lost | / plain |"
    assert arms[2:] == ["| plain | 2 |  | 1.5 |  |", "| ours, 1 | 2 | 1 (0.5–1.5) | – | – |"]
    assert distribution[2:] == ["| plain | 4 | 0 | 0.75 | 1.5 | 2.5 | 4 |"]


def test_page(question: Question, results: Results) -> None:
    text = report({"start-up": question}, results, HISTORY, {"start-up-1"})
    assert "1 of 4 are met" in text
    assert re.search(r"twice plain \| ≤ 2.5 \| 2.5 \| 2–3 \| met \|", text)
    assert re.search(r"below 3 ms \| ≤ 3 ms \| 5 ms \| 4–6 \| \*\*missed\*\* \|", text)
    assert re.search(r"loses nothing \| ≤ 0 \| 4 \| 0–4 \| \*\*missed\*\* \|", text)
    assert re.search(r"never asked \| ≤ 1,000 ms \| – \| – \| not measured \|", text)
    assert "| start-up | 2 s | 1 s | less of it |" in text
    assert text.count("images/performance/") == 1
    assert "cores 2, kernel 6.1." in text
    assert "load average before it 0.5" in text
    assert "not measured to its end" not in text
    assert "\n\n\n" not in text


def test_what_is_missing_is_said(question: Question, results: Results) -> None:
    results.questions["start-up"].complete = False
    results.quick = True
    text = report({"start-up": question, "packets": questions()["packets"]}, results, [], [])
    assert "not measured to its end" in text
    assert "This is a quick run" in text
    assert f"Not measured in this run: {questions()['packets'].title}." in text


def test_drawings_are_the_same_each_time(question: Question, results: Results) -> None:
    first, second = (plots.draw({"start-up": question}, results) for _ in range(2))
    assert first.keys() == {"start-up-1", "start-up-3", "start-up-4"}
    assert first == second
    for svg in first.values():
        assert "<dc:date>" not in svg
        assert re.search(r">Time \(ms\)<|>lost<", svg)


def test_results_survive_their_file(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "bench/results.json"
    results.write(path)
    assert Results.read(path) == results
    lines = [line for line in path.read_text().splitlines() if 'samples": [ ' in line]
    assert len(lines) == 4, "a row of samples is a line"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(ValueError, match="format 0"):
        Results.read(path)


def test_numbers() -> None:
    values = (0, 0.00123, 0.1234, 1, 1.5, 12.34, 99.96, 123.4, 12345.6)
    assert [number(value) for value in values] == ["0", "0.0012", "0.123", "1", "1.5", "12.3", "100", "123", "12,346"]


@pytest.mark.parametrize("name", questions())
def test_questions_are_whole(name: str) -> None:
    asked = questions()[name]
    assert (TEMPLATES / "how" / f"{name}.md").read_text().strip()
    for check in asked.goals:
        assert asked.metric(check.what.metric)
    for table in asked.tables:
        metrics = getattr(table, "metrics", None) or (table.metric,)  # type: ignore[union-attr]
        for metric in (*metrics, *([table.plot] if isinstance(getattr(table, "plot", 0), str) and table.plot else [])):  # type: ignore[union-attr]
            assert asked.metric(metric)


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    results = Results.read(CHECKOUT / "bench/results.json")
    drawn = {path.stem for path in (CHECKOUT / "docs/images/performance").glob("*.svg")}
    history = json.loads((CHECKOUT / "bench/history.json").read_text())
    assert (CHECKOUT / "docs/performance.md").read_text() == report(questions(), results, history, drawn), (
        "scripts/bench --report writes it"
    )
