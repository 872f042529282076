"""An informer against a server that misbehaves: in the end it knows what the server has, and until then what it had."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import ThreadFailed, Threads
from egress_router.kubernetes.client import ApiError, Client
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.kubernetes.informer import Informer, Resource
from egress_router.kubernetes.thread import pause
from tests.support.fake_api import FAULTS, PATH, FakeApi, fake_api
from tests.support.threads import threads


class Parts(TypedDict, total=False):
    metadata: Any
    spec: Any


def value_of(raw: Mapping[str, Any]) -> int | None:
    value = raw["spec"]["value"]
    return None if value < 0 else int(value)


@contextmanager
def informer(
    api: FakeApi,
    configuration: ApiConfiguration | None = None,
    changed: Callable[[], None] = lambda: None,
    silence: float = 0.4,
) -> Iterator[Informer[int]]:
    follows = Informer(
        Client(configuration or api.configuration),
        Resource(PATH),
        value_of,
        changed,
        silence=silence,
        retry=(0.01, 0.05),
        parts=Parts,
    )
    owner = threads()
    follows.start(owner.start)
    try:
        yield follows
    finally:
        follows.stop()
        follows.join()
        assert not any("watch" in line for line in owner.heartbeats.lines()), "it ended as it should, and never failed"


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.mark.parametrize("streaming", [True, False])
def test_objects_come_change_and_go(streaming: bool) -> None:
    with fake_api(streaming=streaming) as api:
        for number in range(3):
            api.set(f"t{number}", number)
        with informer(api) as follows:
            assert until(lambda: follows.synced)
            assert sorted(follows.objects().values()) == [0, 1, 2]
            api.set("t1", 11)
            api.delete("t2")
            api.set("t3", 3)
            api.set("t0", -1)
            assert until(lambda: sorted(follows.objects().values()) == [3, 11]), "what convert passes over is not kept"
        streamed = [path for path in api.requests if "sendInitialEvents" in path]
        lists = [path for path in api.requests if "watch" not in path]
        assert (len(streamed), len(lists)) == ((1, 0) if streaming else (1, 1)), api.requests


def test_the_first_event_is_read_at_once_and_those_in_a_row_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Far more than what is there already takes on a busy machine, and far less than what is waited for here.
    monkeypatch.setattr("egress_router.kubernetes.informer.TOGETHER", 2.0)
    monkeypatch.setattr("egress_router.kubernetes.informer.WAITED", 0.15)
    # One connection: what a new one begins with is read at once in any case.
    with fake_api() as api, informer(api, silence=30.0) as follows:
        assert until(lambda: follows.synced)
        time.sleep(0.3)
        api.set("t1", 1)
        assert until(lambda: len(follows.objects()) == 1, 1.5), "what comes after a quiet moment waits for nobody"
        time.sleep(0.3)
        api.set("t2", 2)
        assert until(lambda: len(follows.objects()) == 2, 1.5)
        began = time.monotonic()
        api.set("t3", 3)
        api.set("t4", 4)
        assert until(lambda: len(follows.objects()) > 2)
        assert time.monotonic() - began > 0.5, "positive control: it has waited"
        assert until(lambda: len(follows.objects()) == 4, 1.5), "both were read"
        time.sleep(0.3)
        api.set("t5", 5)
        assert until(lambda: len(follows.objects()) == 5)
        began = time.monotonic()
        follows.stop()
        follows.join()
        assert time.monotonic() - began < 1.5, "its end waits for no pause"
        assert follows.requests == 1


def test_a_list_is_read_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egress_router.kubernetes.informer.PAGE", 10)
    with fake_api(streaming=False) as api:
        for number in range(35):
            api.set(f"t{number}", number)
        with informer(api) as follows:
            assert until(lambda: follows.synced)
            assert sorted(follows.objects().values()) == list(range(35))
        assert sum("watch" not in path for path in api.requests) == 4


def test_a_delete_takes_away_only_its_own_uid() -> None:
    with fake_api() as api:
        api.set("pod", 1, uid="old")
        with informer(api) as follows:
            assert until(lambda: follows.objects() == {"old": 1})
            # The order that a recreated object can be seen in: the new one first, then the end of the old one.
            with api.condition:
                old = api.objects.pop("pod")
            api.set("pod", 2, uid="new")
            assert until(lambda: follows.objects() == {"old": 1, "new": 2})
            with api.condition:
                api.version += 1
                api.history.append((api.version, "DELETED", old))
                api.condition.notify_all()
            assert until(lambda: follows.objects() == {"new": 2})


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("streaming", [True, False])
def test_what_was_known_stays_through_a_fault(fault: str, streaming: bool) -> None:
    with fake_api(streaming=streaming) as api:
        for number in range(5):
            api.set(f"t{number}", number)
        with informer(api) as follows:
            assert until(lambda: follows.synced)
            seen: set[int] = set()
            follows._changed = lambda: seen.add(len(follows.objects()))
            with api.condition:
                api.faults.extend(["ends", fault, fault])
                api.condition.notify_all()
            assert until(lambda: not api.faults, 15.0), "the faults were met"
            api.set("t0", 100)
            assert until(lambda: follows.objects() == api.values())
            assert seen <= {5}, "at no moment an object was missing"


def test_a_fault_before_the_first_objects_leaves_it_unsynced() -> None:
    with fake_api() as api:
        api.set("t", 1)
        with api.condition:
            api.faults.extend(["cut"] * 3)
        with informer(api) as follows:
            assert until(lambda: follows.synced)
            assert follows.objects() == api.values()
        assert follows.trouble == ""


def test_a_token_that_is_rotated(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with fake_api() as api:
        api.set("t", 1)
        configuration = ApiConfiguration(api.configuration.server, token_file=token)
        with informer(api, configuration) as follows:
            assert until(lambda: follows.synced)
            api.token = "second"
            with api.condition:
                api.faults.append("ends")
                api.condition.notify_all()
            assert until(lambda: "401" in follows.trouble), "the old token is refused"
            token.write_text("second\n")
            api.set("t", 2)
            assert until(lambda: follows.objects() == api.values())
            assert until(lambda: not follows.trouble)


def test_a_server_that_asks_to_wait_is_not_asked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_api() as api:
        follows = Informer(Client(api.configuration), Resource(PATH), value_of, lambda: None, retry=(0.01, 0.05))
        assert follows._after(ApiError(429, "TooManyRequests", "later", 7.0), 1) == 7.0
        assert 0.005 <= follows._after(ApiError(500, "x", "later"), 1) <= 0.01
        assert 0.025 <= follows._after(ApiError(500, "x", "later"), 30) <= 0.05


def test_a_conversion_that_keeps_failing_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    with fake_api() as api:
        api.set("t", 1)

        def convert(raw: Mapping[str, Any]) -> int:
            raise AssertionError("a fault of ours")

        follows = Informer(Client(api.configuration), Resource(PATH), convert, lambda: None)
        follows.start(Threads(loop).start)
        with pytest.raises(ThreadFailed, match=f"thread watch {PATH} ended: AssertionError: a fault of ours"):
            loop.run()
        assert loop.heartbeats.stuck() == [f"watch {PATH} has ended: AssertionError: a fault of ours"]
        assert all(record.exc_info for record in caplog.records), "with the traceback"


def test_a_conversion_that_fails_once_is_begun_anew() -> None:
    loop, failed = Loop(), list[bool]()
    with fake_api() as api:
        api.set("t", 1)

        def convert(raw: Mapping[str, Any]) -> int | None:
            if not failed:
                failed.append(True)
                raise AssertionError("a fault of ours")
            return value_of(raw)

        follows = Informer(Client(api.configuration), Resource(PATH), convert, lambda: None)
        follows.start(Threads(loop).start)
        assert until(lambda: follows.synced)
        assert follows.objects() == api.values()
        assert any("failed 1 times" in line for line in loop.heartbeats.lines())
        follows.stop()
        follows.join()


def test_a_server_that_asks_to_wait_for_long_leaves_a_thread_that_is_seen_to_turn() -> None:
    beats: list[bool] = []
    stopping = threading.Event()
    assert not pause(stopping, 0.35, lambda: beats.append(True), most=0.1)
    assert len(beats) == 4
    stopping.set()
    assert pause(stopping, 3600.0, lambda: None)


def test_what_was_written_counts_before_the_watch_tells_of_it() -> None:
    with fake_api() as api:
        api.set("t", 1, uid="u")
        with informer(api) as follows:
            assert until(lambda: follows.synced)
            api.version += 10
            follows.assume(
                {"metadata": {"name": "t", "uid": "u", "resourceVersion": str(api.version)}, "spec": {"value": 9}}
            )
            assert follows.objects() == {"u": 9}
            follows.assume({"metadata": {"name": "t", "uid": "u", "resourceVersion": "2"}, "spec": {"value": 1}})
            assert follows.objects() == {"u": 9}, "an older state, as a watch that lags would bring it"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("abcdef"), st.integers(-1, 9)),
        st.tuples(st.just("delete"), st.sampled_from("abcdef"), st.just(0)),
        st.tuples(st.just("fault"), st.sampled_from(sorted(set(FAULTS) - {"silent"})), st.just(0)),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.booleans())
def test_in_the_end_it_knows_what_the_server_has(steps: list[tuple[str, str, int]], streaming: bool) -> None:
    with fake_api(streaming=streaming) as api, informer(api) as follows:
        by_changes: dict[str, int] = {}
        for kind, name, value in steps:
            if kind == "set":
                api.set(name, value)
            elif kind == "delete":
                api.delete(name)
            else:
                with api.condition:
                    api.faults.append(name)
                    api.condition.notify_all()
        expected = {uid: value for uid, value in api.values().items() if value >= 0}
        assert until(lambda: follows.synced and not api.faults and follows.objects() == expected), follows.trouble
        for uid, changed in follows.take_changes().items():
            by_changes[uid] = -1 if changed is None else changed
        assert {uid: value for uid, value in by_changes.items() if value >= 0} == expected
