"""Writes a report's files."""

from __future__ import annotations

import json
from pathlib import Path

from bench import plots
from bench.questions import questions
from bench.report import report
from bench.results import Results

HISTORY = Path(__file__).with_name("history.json")


def write_report(results: Results, place: Path) -> Path:
    """Write bench/results.json, docs/performance.md and its plots below ``place``; return the report's path."""
    results.write(place / "bench/results.json")
    images = place / "docs/images/performance"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("*.svg"):
        old.unlink()
    known = questions()
    drawn = plots.draw(known, results)
    for name, svg in drawn.items():
        (images / f"{name}.svg").write_text(svg)
    path = place / "docs/performance.md"
    path.write_text(report(known, results, json.loads(HISTORY.read_text()), drawn.keys()))
    return path
