"""What becomes of threads that end by an error that nobody foresaw."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from egress_router.daemon import threads
from egress_router.daemon.heartbeat import STUCK_SECONDS, Heartbeats
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import MOST_FAILURES, ThreadFailed, Threads
from tests.support.fake_loop import FakeClock


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(threads, "RESTART_SECONDS", 0.0)
    monkeypatch.setattr(LOGGER, "handlers", [caplog.handler])
    monkeypatch.setattr(LOGGER, "propagate", False)
    caplog.set_level(logging.DEBUG)


def fail(*_: object) -> None:
    raise RecursionError("too deep")


def test_a_thread_is_started_again_and_in_the_end_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    owner = Threads(loop)
    owner.start("prober", fail).join(5)
    with pytest.raises(ThreadFailed, match="thread prober ended: RecursionError: too deep") as raised:
        loop.run()
    assert raised.value.exit_code == 70
    assert loop.heartbeats.stuck() == ["prober has ended: RecursionError: too deep"]
    records = [record for record in caplog.records if "thread prober ended by an error" in record.getMessage()]
    assert len(records) == MOST_FAILURES + 1
    assert all(record.exc_info and record.exc_info[0] is RecursionError for record in records)


def test_a_thread_that_runs_again_is_well_and_its_failure_stays_known() -> None:
    loop, calls, running, end = Loop(), list[int](), threading.Event(), threading.Event()

    def target(beat: Callable[[], None]) -> None:
        calls.append(1)
        if len(calls) < 3:
            fail()
        beat()
        running.set()
        end.wait(5)

    thread = Threads(loop).start("prober", target)
    assert running.wait(5)
    assert loop.heartbeats.stuck() == []
    assert any("prober: last heartbeat" in line and "failed 2 times" in line for line in loop.heartbeats.lines())
    end.set()
    thread.join(5)
    loop.turn(until=0.0)


def test_a_job_tells_the_loop_what_it_found() -> None:
    loop, found = Loop(), list[int]()
    owner = Threads(loop)
    owner.job("look", lambda: 5, found.append).join(5)
    assert found == [], "in the loop's own thread"
    loop.turn(until=0.0)
    assert found == [5]
    assert not any("look" in line for line in loop.heartbeats.lines())


def test_a_job_that_keeps_failing_ends_the_process() -> None:
    loop = Loop()
    owner = Threads(loop)
    for _ in range(MOST_FAILURES):
        owner.task("look", fail).join(5)
    owner.task("look", lambda: None).join(5)
    for _ in range(MOST_FAILURES):
        owner.task("look", fail).join(5)
    loop.turn(until=0.0)
    assert any("look: " in line and "failed 5 times" in line for line in loop.heartbeats.lines())
    owner.task("look", fail).join(5)
    with pytest.raises(ThreadFailed, match="thread look ended"):
        loop.turn(until=0.0)


def test_a_thread_of_somebody_else_is_owned_too() -> None:
    loop = Loop()
    owner = Threads(loop)
    before = threading.excepthook
    with owner.owning_all():
        thread = threading.Thread(target=fail, name="log-output")
        thread.start()
        thread.join(5)
    assert threading.excepthook is before
    with pytest.raises(ThreadFailed, match="thread log-output ended: RecursionError: too deep"):
        loop.turn(until=0.0)
    assert loop.heartbeats.stuck() == ["log-output has ended: RecursionError: too deep"]


def test_heartbeats() -> None:
    clock = FakeClock(0.0)
    beats = Heartbeats(clock)
    beats.watch("the loop")
    beats.watch("slow", 100.0)
    clock.now = STUCK_SECONDS
    assert beats.stuck() == []
    clock.now += 5.0
    assert beats.stuck() == ["the loop has not turned for 35 s"]
    beats.beat("the loop")
    assert beats.stuck() == []
    beats.allow("the loop", 1000.0)
    clock.now += 60.0 + STUCK_SECONDS
    assert beats.stuck() == ["slow has not turned for 125 s"]
    beats.forget("slow")
    clock.now += 1000.0
    assert beats.stuck() == ["the loop has not turned for 90 s"]
    assert beats.lines() == ["the loop: last heartbeat 1090.0 s ago"]
