"""The pages of the endpoint, without a socket."""

from __future__ import annotations

import time

from egress_router.daemon.endpoint import Answer, _healthz, _readyz, bounded
from egress_router.daemon.heartbeat import MAIN_LOOP, STUCK_SECONDS, Heartbeats
from tests.support.fake_loop import FakeClock


class Subject:
    """Its loop turned last at ``turned``, time of time.monotonic(); it may be in the future."""

    def __init__(self, turned: float | None = None, found: tuple[str, ...] = ()) -> None:
        now = time.monotonic()
        clock = FakeClock(now if turned is None else min(now, turned))
        self.heartbeats = Heartbeats(clock)
        self.heartbeats.watch(MAIN_LOOP)
        if turned is not None and turned > now:
            self.heartbeats.allow(MAIN_LOOP, turned - now)
        clock.now = now
        self.found = found

    def reasons(self, now: float) -> list[str]:
        return list(self.found)


def text(answer: Answer) -> tuple[int, str]:
    return answer[0], answer[2].decode()


def test_healthy_is_what_turns() -> None:
    assert text(_healthz(Subject())) == (200, "ok\n")
    assert text(_healthz(Subject(time.monotonic() + 100))) == (200, "ok\n")
    status, why = text(_healthz(Subject(time.monotonic() - STUCK_SECONDS - 1)))
    assert (status, why) == (503, f"the loop has not turned for {STUCK_SECONDS + 1:.0f} s\n")


def test_reasons_and_remarks() -> None:
    assert text(_readyz(Subject(), list)) == (200, "ready\n")
    assert text(_readyz(Subject(), lambda: ["b is silent"])) == (200, "ready\nb is silent\n")
    assert text(_readyz(Subject(found=("a", "b")), lambda: ["c"])) == (503, "a\nb\nc\n")


def test_every_heartbeat_is_shown_to_who_asks() -> None:
    subject = Subject(found=("a",))
    subject.heartbeats.watch("prober")
    beats = "prober: last heartbeat 0.0 s ago\nthe loop: last heartbeat 0.0 s ago\n"
    assert text(_healthz(subject, verbose=True)) == (200, f"ok\n{beats}")
    assert text(_readyz(subject, list, verbose=True)) == (503, f"a\n{beats}")
    subject.heartbeats.failed("prober", "RecursionError: too deep", ended=True)
    why = "prober has ended: RecursionError: too deep\n"
    assert text(_healthz(subject)) == (503, why)
    assert text(_readyz(subject, list)) == (503, f"{why}a\n")


def test_a_hundred_sentences_and_a_count() -> None:
    many = [f"{number} is wrong" for number in range(250)]
    status, shown = text(_readyz(Subject(found=tuple(many)), lambda: many))
    assert status == 503
    assert shown.splitlines() == 2 * [*many[:100], "and 150 more"]
    assert bounded(many[:100]) == many[:100]
