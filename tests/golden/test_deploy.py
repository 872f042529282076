"""The examples in deploy/ are what `egress-router manifests` writes today.

``UPDATE_GOLDEN=1 pytest tests/golden/test_deploy.py`` writes them anew.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from egress_router.cli.main import run

DEPLOY = Path(__file__).parents[2] / "deploy"
COMMANDS = dict(line.split(" ", 1) for line in (DEPLOY / "commands").read_text().splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_example_is_current(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY)
    assert run(["manifests", *shlex.split(COMMANDS[name])]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    if os.environ.get("UPDATE_GOLDEN"):
        (DEPLOY / name).write_text(printed.out)
    assert (DEPLOY / name).read_text() == printed.out


def test_nothing_else_is_there() -> None:
    # What is in monitoring/ is written by hand.
    written = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*.yaml") if path.parent.name != "monitoring"}
    assert written == set(COMMANDS)
