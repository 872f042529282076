"""The check of addresses before they are claimed: whatever goes wrong, they are checked again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import pytest

from egress_router.config.values import Address
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.egressip.node import claims
from egress_router.egressip.node.claims import Claimer
from egress_router.errors import AddressInUse, TryAgainError
from egress_router.net.arp_nd import USUAL, Pace
from egress_router.net.rtnetlink.values import Link

FREE, TAKEN = "192.0.2.45", "192.0.2.46"
#: Somebody has it who is slow to say so.
LATE = "192.0.2.47"
LINK = Link(2, "eth0", "veth", "02:00:00:00:00:01", 1500, True, True)


class FakeNeighbours:
    """``troubles`` are raised by the next checks, one each."""

    troubles: list[Exception]
    announced: list[list[str]]

    def __init__(self, interface: str, index: int, mac: str) -> None:
        pass

    def check_duplicates(
        self,
        addresses: Iterable[Address],
        gateways: Iterable[Address] = (),
        pace: Pace = USUAL,
        *,
        hasty: bool = False,
    ) -> None:
        texts = list(map(str, addresses))
        if self.troubles:
            raise self.troubles.pop()
        if TAKEN in texts or (LATE in texts and pace is USUAL):
            raise AddressInUse(f"02:00:00:00:00:99 has {TAKEN if TAKEN in texts else LATE}. Remove it")

    def announce(self, addresses: Iterable[Address]) -> None:
        if self.troubles:
            raise self.troubles.pop()
        self.announced.append(list(map(str, addresses)))

    def close(self) -> None:
        pass


class Answers:
    """What the claimer says, as it comes from its thread."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._found: list[tuple[str, str]] = []

    def __call__(self, reasons: Mapping[str, str]) -> None:
        with self._came:
            self._found += reasons.items()
            self._came.notify()

    def next(self) -> tuple[str, str]:
        with self._came:
            assert self._came.wait_for(lambda: self._found, 5)
            return self._found.pop(0)


def claimer_of(answers: Answers) -> Claimer:
    return Claimer(LINK, answers, Threads(Loop()).task)


@pytest.fixture(autouse=True)
def neighbours(monkeypatch: pytest.MonkeyPatch) -> type[FakeNeighbours]:
    monkeypatch.setattr(claims, "Neighbours", FakeNeighbours)
    monkeypatch.setattr(claims, "_default_gateways", lambda _: [])
    monkeypatch.setattr(claims, "_resolve", lambda *_: None)
    monkeypatch.setattr(claims, "ANNOUNCE_EVERY", 0.001)
    FakeNeighbours.troubles, FakeNeighbours.announced = [], []
    return FakeNeighbours


def test_one_that_is_taken_does_not_hold_up_the_others() -> None:
    answers = Answers()
    claimer_of(answers).check([FREE, TAKEN])
    assert {answers.next(), answers.next()} == {(FREE, ""), (TAKEN, f"02:00:00:00:00:99 has {TAKEN}")}


def test_an_error_of_the_system_refuses_the_address_for_now(neighbours: type[FakeNeighbours]) -> None:
    answers = Answers()
    claimer = claimer_of(answers)
    neighbours.troubles = [OSError(24, "Too many open files")]
    claimer.check([FREE])
    assert answers.next() == (FREE, "nobody can be asked whether it is free: Too many open files")
    claimer.check([FREE])
    assert answers.next() == (FREE, ""), "it is not busy for ever"


def test_what_nobody_foresaw_leaves_no_address_busy(neighbours: type[FakeNeighbours]) -> None:
    answers = Answers()
    claimer = claimer_of(answers)
    neighbours.troubles = [RuntimeError("unforeseen")]
    claimer.check([FREE])
    assert answers.next() == (FREE, "the check failed")
    claimer.check([FREE])
    assert answers.next() == (FREE, "")


def test_announcements_go_on_after_a_failure(neighbours: type[FakeNeighbours]) -> None:
    claimer = claimer_of(Answers())
    claimer.answered = frozenset({FREE})
    neighbours.troubles = [TryAgainError("no carrier"), OSError(100, "Network is down")]
    claimer.announce([FREE])
    for thread in threading.enumerate():
        if thread.name == "announcements":
            thread.join(5)
    assert neighbours.announced == [[FREE]] * (claims.ANNOUNCEMENTS - 2)


def test_what_is_taken_in_a_hurry_is_asked_about_again(neighbours: type[FakeNeighbours]) -> None:
    answers = Answers()
    claimer = claimer_of(answers)
    claimer.check([FREE, LATE, TAKEN], hurried=[FREE, LATE, TAKEN])
    first = {answers.next(), answers.next(), answers.next()}
    assert {ip: bool(reason) for ip, reason in first} == {FREE: False, LATE: False, TAKEN: True}
    claimer.look_again([FREE, LATE])
    assert answers.next() == (LATE, f"02:00:00:00:00:99 has {LATE}")
    claimer_of(answers).check([LATE])
    assert answers.next() == (LATE, f"02:00:00:00:00:99 has {LATE}"), "at the usual pace it is found at once"


def test_who_lets_an_address_go_that_was_taken_in_a_hurry_does_not_have_it(neighbours: type[FakeNeighbours]) -> None:
    """It was silent for a moment, so not dead: both would be without the address, and its connections over."""
    answers = Answers()
    neighbours.troubles = [AddressInUse(f"02:00:00:00:00:99 has {FREE}")]
    claimer_of(answers).look_again([FREE])
    for thread in threading.enumerate():
        if thread.name == "duplicate check":
            thread.join(5)
    assert neighbours.troubles == []
    assert answers._found == []
    neighbours.troubles = [TryAgainError("no carrier"), AddressInUse(f"02:00:00:00:00:99 has {FREE}")]
    claimer_of(answers).look_again([FREE])
    assert answers.next() == (FREE, "no carrier"), "who cannot be asked once more still has it"
