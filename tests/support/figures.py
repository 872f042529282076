"""The figures that each process exports: lists in figure_lists/, which the real pages are held against, and with which
the dashboard, the alerts and the documentation agree.
``pytest --golden-update -k figures`` writes them anew.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.golden import updating

FOLDER = Path(__file__).parent / "figure_lists"


def exported(page: str) -> set[str]:
    """Return name and type of every family of a page, without the marks of creation times."""
    words = (line.split() for line in page.splitlines() if line.startswith("# TYPE "))
    return {f"{name} {kind}" for _, _, name, kind in words}


def listed(mode: str) -> set[str]:
    """Return name and type of every figure of a process."""
    return set((FOLDER / mode).read_text().splitlines())


def check(mode: str, page: str) -> None:
    """Have promtool judge names and texts of a page, and compare it with its list."""
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = exported(page)
    if updating():
        (FOLDER / mode).write_text("".join(f"{item}\n" for item in sorted(found)))
    wanted = listed(mode)
    assert found <= wanted, f"not in {FOLDER / mode}: {sorted(found - wanted)}"
    assert wanted <= found, f"listed and not exported: {sorted(wanted - found)}"
