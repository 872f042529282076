"""An agent or a controller that is told to leave, whatever it is doing."""

from __future__ import annotations

import os
import signal
import time

import pytest

from egress_router.egressip import process


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(process, "LEAVE_SECONDS", 0.2)
    monkeypatch.setattr("egress_router.egressip.process.os._exit", found.append)
    monkeypatch.setattr("egress_router.egressip.process.logging.shutdown", lambda: None)
    return found


def test_one_that_is_stuck_leaves(exits: list[int]) -> None:
    with process.running() as (loop, _):
        loop.post(lambda: time.sleep(0.6))
        loop.post(lambda: os.kill(os.getpid(), signal.SIGTERM))
        # The order of a turn: the signal comes while the loop is in what follows.
        loop.post(lambda: time.sleep(0.6))
        loop.run()
    assert exits == [0]


def test_one_that_hears_it_leaves_as_it_likes(exits: list[int]) -> None:
    with process.running() as (loop, _):
        loop.post(lambda: os.kill(os.getpid(), signal.SIGTERM))
        loop.run()
        time.sleep(0.5)
    assert exits == []
