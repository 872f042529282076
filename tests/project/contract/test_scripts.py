"""Every script of the checkout says what it does, and does nothing else then."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
#: The others are commands of Python, whose help is click's.
SHELL = ["build-images", "check", "screenshots", "suite-root", "test", "test-fresh"]


@pytest.mark.parametrize("name", SHELL)
def test_help(name: str) -> None:
    done = subprocess.run([SCRIPTS / name, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = (SCRIPTS / name).read_text().splitlines()[1].removeprefix("# ")
    assert done.stdout.startswith(told)
    assert ">>>" not in done.stdout, "nothing is begun"
