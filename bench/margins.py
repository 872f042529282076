"""Margins that a change must not pass: ratios that hold on a busy machine, from margins.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from bench.figures import Check, Ratio, Value
from bench.results import Results

FILE = Path(__file__).with_name("margins.toml")


def read_margins(text: str) -> dict[str, list[Check]]:
    """Return the margins by question. Raises ValueError for an entry that says too little, too much or nothing."""
    found: dict[str, list[Check]] = {}
    for entry in tomllib.loads(text)["margin"]:
        fields = dict(entry)
        try:
            question, reason = fields.pop("question"), fields.pop("reason")
            limits = {name: fields.pop(name) for name in ("at_least", "at_most") if name in fields}
            what = Ratio(**fields) if "base" in fields else Value(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"margins.toml: {entry}: {error}") from error
        if not limits:
            raise ValueError(f"margins.toml: {entry}: at_least or at_most is missing")
        found.setdefault(question, []).append(Check(what, reason, **limits))
    return found


def judge(margins: Mapping[str, list[Check]], results: Results) -> tuple[str, bool]:
    """Return a table of all margins, and whether all of the measured questions hold.

    What was not measured though its question was is a failure: a margin that nothing can break guards nothing.
    """
    rows = [("", "figure", "found", "spread", "margin")]
    good = True
    for question, checks in margins.items():
        if question not in results.questions:
            continue
        samples = results.questions[question].samples
        for check in checks:
            found, holds = check.found(samples), check.holds(samples)
            good &= bool(holds)
            words = ("not measured", "")
            if found is not None:
                words = (f"{check.figure(samples):.3g}", f"{found.low:.3g}–{found.high:.3g}")
            rows.append(("ok" if holds else "WORSE", f"{question}: {check.what}", *words, check.limit))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines), good
