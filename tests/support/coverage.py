"""The share of lines that tests reached, one row a package: ``python -m tests.support.coverage FILE``."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from coverage import Coverage


def by_package(report: dict[str, dict[str, dict[str, int]]]) -> dict[str, tuple[int, int]]:
    """Return for each package how many lines there are and how many were reached (a report of ``coverage json``)."""
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for name, values in report.items():
        parts = Path(name).parts
        package = parts[1] if len(parts) > 2 else "egress_router"
        lines, reached = found[package]
        summary = values["summary"]
        found[package] = (lines + summary["num_statements"], reached + summary["covered_lines"])
    return dict(found)


def table(rows: dict[str, tuple[int, int]]) -> str:
    """Return the rows as text, the sum last."""
    total = (sum(lines for lines, _ in rows.values()), sum(reached for _, reached in rows.values()))
    out = [f"{'PACKAGE':16}{'LINES':>8}{'REACHED':>9}"]
    for name, (lines, reached) in [*sorted(rows.items()), ("all", total)]:
        out.append(f"{name:16}{lines:8}{100 * reached / max(lines, 1):8.1f}%")
    return "\n".join(out)


def main() -> None:
    """Print the table."""
    data = Coverage(data_file=sys.argv[1])
    data.load()
    written = Path(sys.argv[1]).with_suffix(".json")
    data.json_report(outfile=str(written))
    sys.stdout.write(table(by_package(json.loads(written.read_text())["files"])) + "\n")


if __name__ == "__main__":
    main()
