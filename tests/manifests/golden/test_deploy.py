"""The examples in deploy/ are what `egress-router manifests` writes today.

``pytest --golden-update`` writes them anew.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from egress_router.cli.main import run
from tests.support.golden import updating

DEPLOY = Path(__file__).parents[3] / "deploy"
COMMANDS = dict(line.split(" ", 1) for line in (DEPLOY / "commands").read_text().splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_example_is_current(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY)
    assert run(["manifests", *shlex.split(COMMANDS[name])]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    if updating():
        (DEPLOY / name).write_text(printed.out)
    assert (DEPLOY / name).read_text() == printed.out


def test_nothing_else_is_there() -> None:
    # What is in monitoring/ and egress-ips/ is written by hand.
    found = (path.relative_to(DEPLOY) for path in DEPLOY.rglob("*.yaml"))
    found = (path for path in found if path.name != "kustomization.yaml")
    written = {str(path) for path in found if path.parts[0] not in ("monitoring", "egress-ips")}
    assert written == set(COMMANDS)
