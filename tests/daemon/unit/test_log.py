"""The log with a reader that stalls."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from egress_router.config.settings import LogFormat, LogLevel, LogSettings
from egress_router.daemon import log


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of other tests is not ours to change."""
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(log.LOGGER, name, getattr(log.LOGGER, name))
    monkeypatch.setattr(log.LOGGER, "handlers", [])


def test_a_reader_that_stalls_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stderr, os.fdopen(read_end) as reader:
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setattr(log, "PATIENCE_MS", 50)
        log.set_up_log(LogSettings(LogFormat.JSON, LogLevel.INFO))
        began = time.monotonic()
        for number in range(1000):
            log.LOGGER.info("%s %s", number, "x" * 200)
        assert time.monotonic() - began < 20, "one message waited, not each"
        kept = [json.loads(reader.readline())["message"].split()[0] for _ in range(100)]
        assert kept == [str(number) for number in range(100)]
        log.LOGGER.info("the last")
        messages: list[str] = []
        while not messages or messages[-1] != "the last":
            messages.append(json.loads(reader.readline())["message"])
    words = messages[-2].split(" ", 1)
    assert words[1] == "messages were lost: nobody read them"
    assert 100 + len(messages) - 2 + int(words[0]) == 1000


def test_a_file_and_a_stream_without_a_descriptor_take_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.set_up_log(LogSettings(LogFormat.TEXT, LogLevel.INFO))
    log.LOGGER.info("here")
    assert capsys.readouterr().err == "info: here\n"
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        log.set_up_log(LogSettings(LogFormat.TEXT, LogLevel.INFO))
        log.LOGGER.info("there")
    assert (tmp_path / "log").read_text() == "info: there\n"
