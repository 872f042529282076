"""The log with a reader that stalls."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from egress_router.config.settings import LogFormat, LogLevel, LogSettings
from egress_router.daemon import log
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.threads import Threads
from tests.support.fake_loop import FakeClock, fake_loop


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
        monkeypatch.setattr(log, "MESSAGES_WAITING", 50_000)
        log.set_up_log(LogSettings(LogFormat.JSON, LogLevel.INFO))
        began = time.monotonic()
        for number in range(1000):
            log.LOGGER.info("%s %s", number, "x" * 200)
        assert time.monotonic() - began < 1, "nobody waited"
        messages = [json.loads(reader.readline())["message"] for _ in range(300)]
        log.LOGGER.handlers[0].flush()
        log.LOGGER.info("the last")
        while messages[-1] != "the last":
            messages.append(json.loads(reader.readline())["message"])
    # More may be lost again and again, as the thread that writes takes what waits.
    lost = [int(text.split()[0]) for text in messages if text.endswith("messages were lost: nobody read them")]
    kept = [int(text.split()[0]) for text in messages[:-1] if text.endswith("x")]
    assert lost
    assert kept == sorted(kept)
    assert kept[:300] == list(range(300)), "a pipe of 64 KiB and 50,000 bytes that wait"
    assert len(kept) + sum(lost) == 1000


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_thread_shows_its_beats_while_nobody_reads_and_that_is_no_reason_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It turns while it waits for the reader."""
    monkeypatch.setattr(log, "TURN_SECONDS", 0.01)
    read_end, write_end = os.pipe()
    clock = FakeClock(0.0)
    heartbeats = Heartbeats(clock)
    output = log.LogOutput(write_end, heartbeats=heartbeats)
    with os.fdopen(read_end, "rb") as reader:
        assert output.put([b"at once"])
        assert heartbeats.lines() == [], "no thread yet"
        assert output.put([b"x" * 1_000_000])
        wait_for(lambda: bool(heartbeats.lines()))
        clock.now += 1000.0
        assert not heartbeats.stuck()
        wait_for(lambda: heartbeats.lines() == ["access-log-output: last heartbeat 0.0 s ago"])
        assert reader.readline() == b"at once\n"
        assert len(reader.readline()) == 1_000_001
        output.flush(10.0)
        clock.now += 1000.0
        wait_for(lambda: heartbeats.lines() == ["access-log-output: last heartbeat 0.0 s ago"])
        output.close(10.0)
        assert heartbeats.lines() == []
    os.close(write_end)


def test_the_beats_of_the_log_itself_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    loop = fake_loop(FakeClock(0.0))
    with os.fdopen(write_end, "w") as stderr, os.fdopen(read_end, "rb") as reader:
        monkeypatch.setattr("sys.stderr", stderr)
        log.set_up_log(LogSettings(LogFormat.TEXT, LogLevel.INFO))
        with Threads(loop).owning_all():
            log.LOGGER.info("x" * 200_000)
            wait_for(lambda: any(line.startswith("log-output: last heartbeat") for line in loop.heartbeats.lines()))
        assert len(reader.readline()) == len("info: \n") + 200_000
        log.LOGGER.handlers[0].flush()


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


@pytest.mark.parametrize("form", LogFormat)
def test_an_error_that_nobody_foresaw_has_its_traceback(form: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up_log(LogSettings(form, LogLevel.INFO))
    try:
        raise RecursionError("too deep")
    except RecursionError:
        log.LOGGER.exception("it failed")
    text = capsys.readouterr().err
    if form is LogFormat.JSON:
        assert text.count("\n") == 1, "one line an event"
        event = json.loads(text)
        assert event["message"] == "it failed"
        assert event["traceback"].endswith("RecursionError: too deep")
    else:
        assert text.startswith("error: it failed\nTraceback (most recent call last):\n")
        assert text.endswith("RecursionError: too deep\n")
