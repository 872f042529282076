"""The command line, run in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from egress_router.cli.main import guarded, run

ROUTER = {
    "EGRESS_SOURCE": "192.0.2.46",
    "EGRESS_GATEWAY": "192.0.2.1",
    "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n8080 tcp 203.0.113.26 80\n203.0.113.27",
    "EGRESS_ROUTER_MODE": "init",
}


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class CommandLine:
    """Runs commands with variables; ``env`` are those of the next ones."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *words: str, env: dict[str, str] | None = None) -> Result:
        for name in [name for name in os.environ if name.startswith("EGRESS_")]:
            self.monkeypatch.delenv(name)
        for name, value in (ROUTER if env is None else env).items():
            self.monkeypatch.setenv(name, value)
        self.capture.readouterr()
        status = guarded(lambda: run(list(words)))
        return Result(status, *self.capture.readouterr())

    def file(self, text: str, name: str = "router.yaml") -> str:
        """Write a file and return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``egress-router WORDS`` in this process."""
    return CommandLine(tmp_path, capsys, monkeypatch)
