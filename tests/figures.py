"""The figures that each process exports: lists in tests/figures/, which the real pages are held against, and with which
the dashboard, the alerts and the documentation agree.
``UPDATE_GOLDEN=1 pytest tests/kernel -k figures`` writes them anew.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / "figures"
#: What a process without host names does not show.
OF_NAMES = "egress_router_name_"


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
    if os.environ.get("UPDATE_GOLDEN"):
        (FOLDER / mode).write_text("".join(f"{item}\n" for item in sorted(found)))
    wanted = listed(mode)
    assert found <= wanted, f"not in {FOLDER / mode}: {sorted(found - wanted)}"
    missing = {item for item in wanted - found if not item.startswith(OF_NAMES)}
    assert not missing, f"listed and not exported: {sorted(missing)}"
