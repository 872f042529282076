"""The order of what the router that stays does, on fakes: what waits for what, and what is not done twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from egress_router.daemon.file_watch import Watch
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.errors import PlatformError
from egress_router.redirect.run import FULL_SECONDS, RETRY_SECONDS, RedirectDaemon
from egress_router.redirect.state import State
from egress_router.redirect.values import Mode, RouterConfig, RunConfig
from tests.support.fake_loop import FakeClock, fake_loop


class FakeWorker:
    """Does each job when its time has come: ``takes`` seconds after it was asked for, in order."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._waiting: list[tuple[Any, ...]] = []
        self.busy = False
        self.takes = 0.0

    def start(self) -> None:
        pass

    def do(self, work: Any, done: Any = None, *, before: Any = None, first: bool = False) -> None:
        self._waiting.insert(0 if first else len(self._waiting), (work, done, before))
        if not self.busy:
            self._next()

    def _next(self) -> None:
        work, done, before = self._waiting.pop(0)
        self.busy = True
        if before is not None:
            before()

        def finish() -> None:
            result = work()
            self.busy = False
            if done is not None:
                done(result)
            if self._waiting and not self.busy:
                self._next()

        self._router.loop.call_later(self.takes, finish)


class FakeEvents:
    """Rule events that a test rings."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps

    def fileno(self) -> int:
        return -1

    def drain(self) -> bool:
        return True

    def pause(self) -> None:
        self.steps.append("events paused")

    def listen(self) -> None:
        self.steps.append("events heard")

    def close(self) -> None:
        pass


class FakeFiles(Watch):
    """A file that a test changes."""

    def __init__(self) -> None:
        super().__init__([])
        self.different = False

    def changed(self) -> bool:
        different, self.different = self.different, False
        return different

    def follow(self, threads: Threads, loop: Loop, every: float, seen: Callable[[bool], object]) -> None:
        loop.every(every, lambda: seen(self.changed()))


class Router:
    """A redirect daemon whose kernel is a list of steps. ``connections`` is how many are left."""

    name = "nftables"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.loop = fake_loop(self.clock)
        self.steps: list[str] = []
        self.state = State("macvlan0")
        self.config = RouterConfig(Mode.LEGACY, {}, {})
        self.backend = self
        self.good = True
        self.left = 0
        self.error: PlatformError | None = None
        self.worker = FakeWorker(self)
        self.files = FakeFiles()
        self.events = FakeEvents(self.steps)
        me: Any = self
        self.asked_for: Callable[[], None] = lambda: None
        self.daemon = RedirectDaemon(
            RunConfig(self.config, grace=30),
            me,
            self.files,
            self.loop,
            Threads(self.loop),
            worker=me.worker,
            uplink=me,
        )
        self.daemon._rule_events = me.events
        monkeypatch.setattr(self.daemon, "_listen", lambda: [me.events])
        monkeypatch.setattr(self.loop, "add_reader", lambda *_: None)
        monkeypatch.setattr(self.daemon._draining, "left", lambda *_: self.left)

    # The kernel

    def check(self, *, rules: bool, network: bool) -> bool:
        self.steps.append(f"check{' rules' if rules else ''}{' network' if network else ''}")
        return self.good

    def reload(self) -> None:
        self.steps.append("reload")

    def connections(self) -> list[object]:
        return []

    def proxied(self) -> int:
        return 0

    def stop_offloading(self) -> None:
        self.steps.append("connections go by the rules")

    def ask(self) -> None:
        self.asked_for()

    def hand_over(self) -> None:
        self.steps.append("give the addresses up")

    def stop_accepting(self) -> None:
        self.steps.append("refuse new connections")
        if self.error is not None:
            raise self.error

    # The uplink, and what both have

    def look_at_link(self) -> None:
        pass

    def probe(self) -> None:
        pass

    def announce(self) -> None:
        pass

    def close(self) -> None:
        if self.state.leaving and "end connections" not in self.steps:
            self.steps.append("end connections")

    def run(self, seconds: float, *plan: tuple[float, Callable[[], object]]) -> None:
        start = self.clock.now
        for after, action in plan:
            self.loop.call_later(after, action)
        self.loop.call_later(seconds, self.loop.stop)
        self.daemon.run()
        self.took = self.clock.now - start

    def signal(self, number: signal.Signals) -> Callable[[], None]:
        return lambda: self.daemon._signal(number)

    def touched(self) -> None:
        self.daemon._check_soon(rules=True, network=False)


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    return Router(monkeypatch)


def test_all_is_looked_at_first_and_then_now_and_then(router: Router) -> None:
    router.run(FULL_SECONDS["nftables"] * 2 + 1)
    assert router.steps == ["check rules network"] * 3


def test_events_that_come_in_a_bunch_are_one_look_at_what_was_touched(router: Router) -> None:
    router.run(5.0, *((2.0 + number / 1000, router.touched) for number in range(3)))
    assert router.steps == ["check rules network", "check rules"]


def test_events_during_a_look_are_one_more_look(router: Router) -> None:
    router.worker.takes = 1.0
    router.run(6.0, (2.0, router.touched), (2.5, router.touched), (2.7, router.touched))
    assert router.steps == ["check rules network", "check rules", "check rules"]


def test_what_cannot_be_put_back_is_tried_again_soon(router: Router) -> None:
    router.good = False
    router.run(3 * RETRY_SECONDS + 1)
    assert router.steps == ["check rules network"] * 4


def test_a_file_is_read_when_it_has_stayed_the_same_for_one_look(router: Router) -> None:
    def change() -> None:
        router.files.different = True

    router.run(5.0, (2.0, change), (2.2, change), (2.4, change))
    assert router.steps.count("reload") == 1
    at = router.steps.index("reload")
    assert router.steps[at - 1 : at + 3] == ["events paused", "reload", "events heard", "check rules"]


def test_new_connections_are_refused_then_waited_for_then_ended(router: Router) -> None:
    router.left = 5

    def over() -> None:
        router.left = 0

    router.run(60.0, (2.0, router.signal(signal.SIGTERM)), (5.0, over), (6.0, router.signal(signal.SIGHUP)))
    assert router.steps[-2:] == ["refuse new connections", "end connections"]
    assert "reload" not in router.steps
    assert 5.0 <= router.took < 6.0


def test_one_that_nobody_replaces_takes_new_connections_until_it_is_idle(router: Router) -> None:
    router.left = 1
    router.daemon._run = replace(router.daemon._run, delay=None)
    reasons: list[list[str]] = []

    def over() -> None:
        reasons.append(router.state.reasons(0.0))
        router.left = 0

    router.run(60.0, (2.0, router.signal(signal.SIGTERM)), (20.0, over))
    assert reasons == [[]], "a Service whose pods all leave sends clients to those that are ready"
    assert "refuse new connections" not in router.steps
    assert "connections go by the rules" in router.steps, "else nobody tells which of them live"
    assert router.steps[-1] == "end connections"
    assert 20.0 <= router.took < 21.0


def with_handover(router: Router, seconds: int) -> None:
    router.daemon._run = replace(router.daemon._run, delay=None, router=replace(router.config, handover=seconds))


def test_one_that_hands_over_goes_on_until_its_successor_asks_for_the_address(router: Router) -> None:
    with_handover(router, 20)
    seen: list[tuple[list[str], list[str]]] = []

    def look() -> None:
        seen.append((router.state.reasons(0.0), [step for step in router.steps if "up" in step]))

    router.run(60.0, (2.0, router.signal(signal.SIGTERM)), (9.0, look), (9.5, router.ask))
    assert seen == [([], [])], "ready, and it has its addresses, though it has no connection"
    assert router.steps[-1] == "give the addresses up"
    assert 9.5 <= router.took < 10.0


def test_who_asks_before_that_is_not_heeded(router: Router) -> None:
    """Anybody can ask: it ends a wait of one that shall leave, and does nothing else."""
    with_handover(router, 20)
    router.run(60.0, (1.0, router.ask), (2.0, router.signal(signal.SIGTERM)))
    assert 22.0 <= router.took < 22.5, "nobody has asked since"


def test_connections_are_waited_for_after_the_successor_has_asked(router: Router) -> None:
    with_handover(router, 20)
    router.left = 1

    def over() -> None:
        router.left = 0

    plan = (2.0, router.signal(signal.SIGTERM)), (3.0, router.ask), (12.0, over)
    router.run(60.0, *plan)
    assert 12.0 <= router.took < 12.5


def test_no_successor_is_waited_for_longer_than_the_grace(router: Router) -> None:
    with_handover(router, 300)
    router.run(100.0, (2.0, router.signal(signal.SIGTERM)))
    assert 32.0 <= router.took < 33.0


def test_a_worker_that_counts_many_connections_gives_the_addresses_up_after_that(router: Router) -> None:
    with_handover(router, 30)
    router.left = 1
    router.worker.takes = 1.0
    router.run(100.0, (2.0, router.signal(signal.SIGTERM)))
    assert "give the addresses up" in router.steps
    assert router.took < 36.0


def test_one_of_several_is_unready_first_and_refuses_later(router: Router) -> None:
    router.left = 1
    router.daemon._run = replace(router.daemon._run, delay=8)
    seen: list[tuple[list[str], bool]] = []

    def look() -> None:
        seen.append((router.state.reasons(0.0), "refuse new connections" in router.steps))

    router.run(100.0, (2.0, router.signal(signal.SIGTERM)), (2.1, look), (9.5, look), (10.5, look))
    assert seen == [(["leaving"], False), (["leaving"], False), (["leaving"], True)]
    assert 40.0 <= router.took < 41.0, "the grace begins then"


def test_the_grace_is_the_end_of_waiting(router: Router) -> None:
    router.left = 5
    router.run(100.0, (2.0, router.signal(signal.SIGTERM)))
    assert 32.0 <= router.took < 33.0
    assert router.steps[-1] == "end connections"


def test_a_second_sigterm_waits_for_nothing(router: Router) -> None:
    router.left = 5
    router.run(100.0, (2.0, router.signal(signal.SIGTERM)), (4.0, router.signal(signal.SIGTERM)))
    assert 4.0 <= router.took < 5.0
    assert router.steps[-1] == "end connections"


def test_sigterm_is_heard_while_the_kernel_is_worked_on(router: Router) -> None:
    """It is unready at once, and what is done first after that is to refuse new connections."""
    router.worker.takes = 3.0
    reasons: list[list[str]] = []
    router.run(
        40.0,
        (3.5, router.signal(signal.SIGHUP)),
        (3.6, router.signal(signal.SIGHUP)),
        (4.0, router.signal(signal.SIGTERM)),
        (4.01, lambda: reasons.append(router.state.reasons(0.0))),
    )
    assert reasons == [["leaving"]]
    at = router.steps.index("refuse new connections")
    assert router.steps[at - 1] in ("reload", "events heard", "events paused")
    assert router.steps[:at].count("reload") == 1, "the second one waits behind it"


def test_work_that_never_ends_does_not_keep_it(router: Router) -> None:
    def stuck() -> None:
        router.worker.takes = 10_000.0
        router.touched()

    router.run(200.0, (2.0, stuck), (3.0, router.signal(signal.SIGTERM)))
    assert router.took < 45.0


def test_a_kernel_that_refuses_is_left_all_the_same(router: Router) -> None:
    router.error = PlatformError("no")
    router.run(100.0, (2.0, router.signal(signal.SIGTERM)))
    assert router.steps[-1] == "end connections"
    assert router.took < 5.0
