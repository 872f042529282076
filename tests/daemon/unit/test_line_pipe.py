"""The pipe of the access log, and the beats of the thread that reads it."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable

import pytest

from egress_router.daemon import line_pipe
from egress_router.daemon.heartbeat import STUCK_SECONDS, Heartbeats
from egress_router.daemon.line_pipe import LinePipe
from tests.support.fake_loop import FakeClock


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_thread_that_turns_beats_and_one_that_is_stuck_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_pipe, "TURN_SECONDS", 0.01)
    clock = FakeClock(0.0)
    heartbeats = Heartbeats(clock)
    taken: list[bytes] = []
    entered, go_on = threading.Event(), threading.Event()

    def take(lines: list[bytes]) -> None:
        taken.extend(lines)
        if b"stop" in lines:
            entered.set()
            go_on.wait(10)

    pipe = LinePipe(take, heartbeats, "access-log of one")
    wait_for(lambda: heartbeats.lines() == ["access-log of one: last heartbeat 0.0 s ago"])
    clock.now += STUCK_SECONDS + 1
    wait_for(lambda: not heartbeats.stuck())
    os.write(pipe.write_end, b"first\nstop\n")
    assert entered.wait(10)
    clock.now += STUCK_SECONDS + 1
    assert heartbeats.stuck() == [f"access-log of one has not turned for {STUCK_SECONDS + 1:.0f} s"]
    os.write(pipe.write_end, b"last\n")
    go_on.set()
    wait_for(lambda: not heartbeats.stuck())
    pipe.finish(10)
    assert taken == [b"first", b"stop", b"last"]
    assert heartbeats.lines() == [], "it ended as it should"


def test_a_child_does_not_wait_where_its_pipe_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with many pipes gets small ones: lines that are gathered for long would fill them."""
    monkeypatch.setattr(line_pipe, "PIPE_BYTES", 4096)
    monkeypatch.setattr(line_pipe, "BUSY_SECONDS", 60.0)
    taken: list[bytes] = []
    pipe = LinePipe(taken.extend)
    size = fcntl.fcntl(pipe.write_end, fcntl.F_GETPIPE_SZ)
    assert size < line_pipe.CHUNK or size == os.sysconf("SC_PAGESIZE")
    lines = size * 3 // 4 // 100
    for number in range(1, 4):
        os.write(pipe.write_end, b"".join(b"%099d\n" % line for line in range(lines)))
        wait_for(lambda number=number: len(taken) == lines * number)  # type: ignore[misc]
    pipe.finish(10)
    assert len(taken) == 3 * lines
