"""How long a hand-over waits, and what an agent that starts again knows of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from egress_router.egressip.node.drain import COUNT_EVERY, NodeDrain


class Loop:
    """Does a job at once, and calls what follows it when the test says so."""

    def __init__(self) -> None:
        self.posted: list[Callable[[], object]] = []
        self.log: list[str] = []

    def job(
        self,
        name: str,
        work: Callable[[], object],
        done: Callable[[object], object],
        failed: Callable[[], object],
    ) -> None:
        try:
            result = work()
        except RuntimeError:
            self.posted.append(failed)
        else:
            self.posted.append(lambda: done(result))

    def hand_over(self, path: Path) -> NodeDrain:
        return NodeDrain(path, self.job, self.log.append)

    def looked(self, hand_over: NodeDrain, now: float) -> None:
        """Have it count the connections of no address, of which there are none."""
        hand_over.count([], now)
        self.call()

    def call(self) -> None:
        """Call what follows the job."""
        self.posted.pop()()


def test_an_agent_that_starts_again_goes_on(tmp_path: Path) -> None:
    loop, path = Loop(), tmp_path / "node.drain"
    first = loop.hand_over(path)
    assert not first.draining
    first.start(100.0)
    second = loop.hand_over(path)
    assert second.draining
    assert second.until == first.until
    assert not second.by_api
    first.start(100.0, by_api=True)
    assert loop.hand_over(path).by_api
    second.end()
    assert not loop.hand_over(path).draining
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"boot": "of another life", "until": 5}', '{"boot": null, "until": "x"}']
)
def test_what_another_boot_or_nobody_has_written_counts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.drain").write_text(text)
    assert not Loop().hand_over(tmp_path / "node.drain").draining


def test_a_hand_over_that_cannot_be_kept_is_one(tmp_path: Path) -> None:
    loop = Loop()
    hand_over = loop.hand_over(tmp_path / "not-there" / "node.drain")
    hand_over.start(100.0)
    assert hand_over.draining
    assert "will not know" in loop.log[0]


def test_it_is_over_with_the_last_connection_or_with_the_grace(tmp_path: Path) -> None:
    loop, now = Loop(), time.monotonic()
    hand_over = loop.hand_over(tmp_path / "node.drain")
    assert not hand_over.over(now)
    hand_over.start(100.0)
    assert not hand_over.over(now + 1000), "nobody has looked yet"
    loop.looked(hand_over, now)
    assert hand_over.left is not None
    assert hand_over.over(now)
    hand_over.left["198.51.100.2"] = 1
    assert not hand_over.over(now)
    assert hand_over.over(now + 1000)
    hand_over.end()
    assert not hand_over.over(now + 1000)


def test_a_look_of_before_an_undrain_does_not_count(tmp_path: Path) -> None:
    loop, now = Loop(), time.monotonic()
    hand_over = loop.hand_over(tmp_path / "node.drain")
    hand_over.start(100.0)
    hand_over.count([], now)
    hand_over.end()
    hand_over.start(100.0)
    loop.call()
    assert hand_over.left is None


def test_the_next_turn_is_a_look_or_the_end_of_the_grace(tmp_path: Path) -> None:
    loop = Loop()
    hand_over = loop.hand_over(tmp_path / "node.drain")
    assert hand_over.next_turn(0.0) == float("inf")
    hand_over.start(100.0)
    assert hand_over.until is not None
    now = hand_over.until - COUNT_EVERY / 2
    loop.looked(hand_over, now)
    assert hand_over.next_turn(now) == hand_over.until
    assert hand_over.next_turn(hand_over.until) == now + COUNT_EVERY, "and never in the past, or the loop spins"


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    Loop().hand_over(tmp_path / "node.drain").start(5.0)
    assert json.loads((tmp_path / "node.drain").read_text()).keys() == {"boot", "until", "api"}


def test_a_look_that_fails_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(held: object) -> list[object]:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("egress_router.egressip.node.drain._open_flows", fail)
    loop, now = Loop(), time.monotonic()
    hand_over = loop.hand_over(tmp_path / "node.drain")
    hand_over.start(100.0)
    hand_over.count(["192.0.2.45"], now)
    loop.call()
    assert not hand_over.over(now)
    monkeypatch.setattr("egress_router.egressip.node.drain._open_flows", lambda _: [])
    hand_over.count(["192.0.2.45"], now + 2 * COUNT_EVERY)
    loop.call()
    assert hand_over.left is not None
    assert hand_over.over(now)
