"""The pages of the endpoint, without a socket."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from egress_router.daemon.endpoint import STUCK_SECONDS, Answer, _healthz, _readyz


@dataclass
class Subject:
    turned: float = field(default_factory=time.monotonic)
    found: tuple[str, ...] = ()

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
