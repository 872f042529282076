"""The order of what the supervisor does with generations, on fakes: no gap, and every failure leaves what works."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egress_router.daemon.children import Child, Launch
from egress_router.daemon.clock import SetBack
from egress_router.daemon.engine import Counters, Limits
from egress_router.daemon.supervisor import Supervisor
from egress_router.errors import ConfigurationError, PlatformError, Problem
from tests.support.fake_loop import FakeClock, fake_loop

LIMITS = Limits(grace=10.0, start=5.0, deaths=3, steady=100.0, backoff=1.0, backoff_max=8.0)


class FakeChild:
    """Ends when it is killed, or told to by SIGTERM; ``status`` as waitpid(2) gives it."""

    def __init__(self, world: World, launch: Launch, generation: int) -> None:
        self.world, self.name, self.generation = world, launch.name, generation
        self.pid = 1000 + len(world.children)
        self.output = world.pipe
        self.status: int | None = None
        self.last_lines: deque[str] = deque()
        self.kills: list[int] = []

    def signal(self, number: int) -> None:
        self.world.steps.append(f"signal {self.generation} {signal.Signals(number).name}")
        if number == signal.SIGKILL:
            self.world.end(self, number)

    def ended(self, wait_status: int) -> None:
        self.status = wait_status

    def reason(self) -> str:
        return "died"

    def read_lines(self, line: object) -> bool:
        return True

    def close(self) -> None:
        self.output = -1


class World:
    """An engine on fakes, its children, and what happens to them. ``conf`` is what is read, "bad…" is refused."""

    name = "fake"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock(0.0)
        self.loop = fake_loop(self.clock)
        self.steps: list[str] = []
        self.children: list[FakeChild] = []
        self.dead: list[tuple[int, int]] = []
        self.conf = "good"
        self.slow_start = False
        self.replaceable = True
        self.asked: list[float] = []
        self.pipe = -1
        spawn: Any = self._spawn
        self.supervisor: Supervisor[str] = Supervisor(self, LIMITS, self._report, loop=self.loop, spawn=spawn)  # type: ignore[arg-type]
        jobs: Any = self._job
        self.supervisor.threads.job = jobs  # type: ignore[method-assign]
        monkeypatch.setattr(os, "waitpid", self._waitpid)
        monkeypatch.setattr(self.loop, "add_reader", lambda *_: None)

    def _job(self, name: str, work: Any, done: Any, limit: float, failed: Any) -> None:
        result = work()
        self.loop.post(lambda: done(result))

    def _spawn(self, launch: Launch, generation: int) -> FakeChild:
        self.children.append(FakeChild(self, launch, generation))
        self.steps.append(f"start {generation}")
        return self.children[-1]

    def _waitpid(self, pid: int, flags: int) -> tuple[int, int]:
        for index, (dead, status) in enumerate(self.dead):
            if pid in (-1, dead):
                del self.dead[index]
                return dead, status
        if flags:
            return 0, 0
        raise ChildProcessError

    def end(self, child: FakeChild, status: int = 0) -> None:
        if child.status is None and child.pid not in dict(self.dead):
            self.dead.append((child.pid, status))

    def _report(self, counters: Counters) -> None:
        self.steps.append(f"ready {counters.ready}")

    # The engine

    def watched(self) -> Iterable[Path]:
        return ()

    def prepare(self, generation: int) -> str:
        self.steps.append(f"prepare {generation}")
        if self.conf.startswith("bad"):
            raise ConfigurationError([Problem("CONF", 1, self.conf, "is bad")])
        return self.conf

    def launch(self, prepared: str, previous: Child | None) -> Sequence[Launch]:
        return [Launch((prepared,), name=prepared)]

    def ready(self, child: Child, prepared: str) -> bool:
        return not self.slow_start

    def retire(self, child: FakeChild, final: bool) -> None:
        self.steps.append(f"retire {child.generation} {'finally' if final else 'replaced'}")

    def finished(self, child: FakeChild, seconds: float) -> bool:
        return seconds > 2.0

    def may_replace(self) -> bool:
        self.asked.append(self.clock.now)
        return self.replaceable

    def on_output(self, child: Child, line: str) -> None:
        pass

    def ended(self, child: FakeChild) -> None:
        self.steps.append(f"gone {child.generation}")

    # A test

    def run(self, seconds: float, *plan: tuple[float, Any]) -> int:
        for after, action in plan:
            self.loop.call_later(after, action)
        self.loop.call_later(seconds, lambda: self.supervisor._stop("SIGTERM"))
        return self.supervisor._run()

    def reload(self, conf: str) -> None:
        self.conf = conf
        self.supervisor._want_reload()

    def in_order(self, *steps: str) -> None:
        """Assert that these come in this order, whatever else comes."""
        at = -1
        for step in steps:
            assert step in self.steps[at + 1 :], f"{step} after {self.steps[: at + 1]}: {self.steps}"
            at = self.steps.index(step, at + 1)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_successor_is_ready_before_its_predecessor_is_retired(world: World) -> None:
    assert world.run(20.0, (5.0, lambda: world.reload("better"))) == 0
    world.in_order("prepare 1", "start 1", "ready True", "prepare 2", "start 2", "retire 1 replaced", "gone 1")
    world.in_order("gone 1", "retire 2 finally", "ready False", "gone 2")
    assert world.supervisor.counters.reloads == 1


def test_an_engine_is_asked_whether_it_may_be_replaced_when_it_would_be(world: World) -> None:
    """Squid's looks through all connections of the pod for that: twice a second it took two hundredths of a core."""

    def refuse() -> None:
        world.replaceable = False
        world.reload("better")

    def allow() -> None:
        world.replaceable = True

    world.run(20.0, (5.0, refuse), (8.0, allow))
    assert min(world.asked) >= 5.0
    assert 8.0 <= max(world.asked) < 9.0
    world.in_order("ready True", "prepare 2", "start 2", "retire 1 replaced")
    assert len(world.children) == 2


@pytest.mark.parametrize(("step", "generations"), [(-3600.0, 2), (3600.0, 1), (-1.0, 1)])
def test_a_clock_that_is_set_back_is_a_new_generation(world: World, step: float, generations: int) -> None:
    """Squid keeps answers of DNS by the wall clock: the old ones would stay true for so long."""
    wall = [1_000_000.0]
    world.supervisor._clock = SetBack(lambda: wall[0] + world.clock.now, world.clock)

    def set_clock() -> None:
        wall[0] += step

    assert world.run(20.0, (5.0, set_clock)) == 0
    assert len(world.children) == generations
    if generations == 2:
        world.in_order("ready True", "prepare 2", "start 2", "retire 1 replaced", "gone 1", "retire 2 finally")


def test_one_that_does_not_become_ready_is_ended_and_the_old_one_stays(world: World) -> None:
    def slow() -> None:
        world.slow_start = True
        world.reload("slow")

    world.run(20.0, (5.0, slow))
    world.in_order("start 2", "signal 2 SIGKILL", "gone 2", "retire 1 finally")
    assert "retire 1 replaced" not in world.steps
    assert (world.supervisor.counters.reload_failures, world.supervisor.counters.refused) == (1, True)


def test_a_bad_configuration_is_refused_and_the_next_good_one_taken(world: World) -> None:
    world.run(20.0, (3.0, lambda: world.reload("bad")), (6.0, lambda: world.reload("good again")))
    world.in_order("prepare 2", "prepare 3", "start 3", "retire 1 replaced")
    assert "start 2" not in world.steps
    counters = world.supervisor.counters
    assert (counters.reloads, counters.reload_failures, counters.refused) == (1, 1, False)


def test_the_first_bad_configuration_is_the_end(world: World) -> None:
    world.conf = "bad"
    with pytest.raises(ConfigurationError):
        world.run(5.0)
    assert "start 1" not in world.steps


def test_one_that_dies_is_started_again_with_what_was_in_force(world: World) -> None:
    def dies() -> None:
        world.conf = "bad by now"
        world.end(world.children[0], 1)

    world.run(20.0, (5.0, dies))
    world.in_order("gone 1", "ready False", "prepare 2", "start 2", "ready True")
    assert world.children[1].name == "good", "not what is refused"
    assert world.supervisor.counters.restarts == 1


def test_one_that_keeps_dying_ends_the_process(world: World) -> None:
    def dies() -> None:
        for child in world.children:
            world.end(child, 1)

    with pytest.raises(PlatformError, match="fake died 3 times in a row"):
        world.run(100.0, *((after / 2, dies) for after in range(2, 190)))


def test_a_second_sigterm_ends_at_once(world: World) -> None:
    began: list[float] = []

    def again() -> None:
        began.append(world.clock.now)
        world.supervisor._stop("SIGTERM")

    world.run(5.0, (5.5, again))
    world.in_order("retire 1 finally", "signal 1 SIGKILL", "gone 1")
    assert world.clock.now - began[0] < 1.0


def test_sigterm_while_a_configuration_is_prepared_leaves(world: World) -> None:
    world.supervisor.threads.job = lambda *_: None  # type: ignore[method-assign, assignment]
    assert world.run(1.0) == 0
    assert world.clock.now < 3.0


def test_one_of_several_takes_new_connections_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service has to hear that it is not ready. A second signal does not wait for that."""
    world = World(monkeypatch)
    world.supervisor.limits = replace(LIMITS, delay=6.0)
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        seen.append((world.supervisor.leaving, "retire 1 finally" in world.steps))

    assert world.run(5.0, (4.9, look), (5.1, look), (10.5, look), (11.5, look)) == 0
    assert seen == [(False, False), (True, False), (True, False), (True, True)]

    hurried = World(monkeypatch)
    hurried.supervisor.limits = replace(LIMITS, delay=60.0)
    assert hurried.run(5.0, (8.0, lambda: hurried.supervisor._stop("SIGTERM"))) == 0
    assert hurried.clock.now < 20.0
