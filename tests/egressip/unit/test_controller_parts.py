"""What the controller takes for offline, how long it waits for a node that flaps, and that only one has the lease."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from egress_router.egressip.controller.hold_down import MOST, HoldDown
from egress_router.egressip.controller.leader_election import (
    LOCK_FILE,
    DirectoryLease,
    DirectoryRecord,
    record_assignment,
)
from egress_router.egressip.controller.watched_nodes import FIGURES_COUNT, ControllerSettings, WatchedNodes
from egress_router.egressip.health import Health
from egress_router.egressip.source.directory import read_directory
from egress_router.errors import TryAgainError
from egress_router.net.agent_figures import parts_of
from egress_router.net.icmp_probe import Answer

GONE = Answer(echo=False, ready=False, draining=False)
KERNEL_ONLY = Answer(echo=True, ready=False, draining=False)
WELL = Answer(echo=True, ready=True, draining=False, pending=frozenset())


def watched(down: tuple[str, ...] = (), keepers: tuple[str, ...] = ()) -> WatchedNodes:
    nodes = WatchedNodes(ControllerSettings(hold_down=10), current_gateways=keepers)
    nodes.set_names(["a", "b"], down)
    return nodes


def rounds(nodes: WatchedNodes, count: int, now: float = 0.0, **answers: Answer) -> list[str]:
    return [text for _ in range(count) for text in nodes.probed(4, answers, ["me"], now)]


def test_a_node_that_misses_is_offline_and_waited_for_when_it_is_back() -> None:
    nodes = watched()
    rounds(nodes, 3, a=WELL, b=WELL)
    assert nodes.offline(0) == set()
    rounds(nodes, 3, a=GONE, b=WELL)
    assert nodes.offline(0) == {"a"}
    rounds(nodes, 3, 100, a=WELL, b=WELL)
    assert nodes.offline(105) == {"a"}
    assert nodes.next_release(105) == 110
    assert nodes.offline(111) == set()


def test_a_lost_ping_is_no_miss_while_the_agent_speaks() -> None:
    """Agents are asked in every third round; one whose node answers no ping for long is as good as gone."""
    word_only = Answer(echo=False, ready=True, draining=False, pending=frozenset())
    nodes = watched()
    rounds(nodes, 1, a=WELL, b=WELL)
    for _ in range(20):
        assert not [text for a in (GONE, GONE, word_only, WELL) for text in rounds(nodes, 1, a=a, b=WELL)]
    assert not rounds(nodes, 3, a=word_only, b=WELL)
    assert rounds(nodes, 3, a=word_only, b=WELL) == ["node a is down"]
    assert not rounds(nodes, 20, a=word_only, b=WELL), "without a ping it does not come back"


@pytest.mark.parametrize("down", [(), ("a",)], ids=["new", "known to be down"])
def test_a_node_that_never_answered_a_ping_is_not_up_by_its_agent_s_word(down: tuple[str, ...]) -> None:
    """Else it would be back for a moment whenever another controller begins to watch it."""
    word_only = Answer(echo=False, ready=True, draining=False, pending=frozenset())
    nodes = watched(down)
    assert not [text for text in rounds(nodes, 20, a=word_only, b=WELL) if "a is back" in text or "a is up" in text]
    assert "a" in nodes.offline(0)


def test_figures_of_an_agent_that_says_nothing_any_more_are_not_shown_for_ever() -> None:
    nodes = watched()
    (told,) = parts_of("0.1.0", {"192.0.2.1": 3}, {}, {}, {})
    rounds(nodes, 1, a=replace(WELL, figures=told), b=WELL)
    rounds(nodes, 1, now=FIGURES_COUNT - 1, a=KERNEL_ONLY, b=WELL)
    assert nodes.figures(FIGURES_COUNT - 1).keys() == {"a"}
    assert nodes.figures(FIGURES_COUNT) == {}


def test_when_nobody_answers_nothing_is_concluded_of_others() -> None:
    nodes = watched()
    nodes.set_names(["a", "b", "me"], ())
    rounds(nodes, 1, a=WELL, b=WELL, me=WELL)
    assert rounds(nodes, 9, a=GONE, b=GONE, me=WELL) == ["no other machine answers; what others hold stays"]
    assert nodes.offline(0) == set()
    said = rounds(nodes, 9, a=GONE, b=WELL, me=WELL)
    assert said == ["other machines answer again", "node a is down"]


def test_those_that_are_late_are_told_of_alone_and_say_of_whom_it_is() -> None:
    nodes = watched()
    nodes.set_names(["a", "b", "me"], ())
    rounds(nodes, 1, a=WELL, b=WELL, me=WELL)
    assert rounds(nodes, 3, a=GONE) == ["node a is down"], "b has answered"
    other = watched()
    other.set_names(["a", "b", "me"], ())
    rounds(other, 1, a=WELL, b=WELL, me=WELL)
    said = [text for _ in range(9) for name in "ab" for text in other.probed(4, {name: GONE}, ["me"], 0)]
    assert said == ["no other machine answers; what others hold stays"]
    assert other.offline(0) == set(), "neither has answered its last probe: it is this machine"
    assert not other.probed(4, {}, ["me"], 0), "a round all of whose answers were late tells nothing new"
    gone = watched()
    rounds(gone, 1, a=WELL, b=WELL)
    gone.set_names(["a"], ())
    rounds(gone, 9, a=GONE)
    assert gone.offline(0) == set(), "the word of one that is watched no more counts for nothing"


def test_a_single_node_that_is_this_machine_is_up() -> None:
    nodes = watched()
    nodes.set_names(["me"], ())
    rounds(nodes, 1, me=WELL)
    assert nodes.offline(0) == set()


def test_what_an_earlier_controller_took_for_down_is_given_nothing_before_it_shows_itself() -> None:
    nodes = watched(down=("a",), keepers=("b",))
    rounds(nodes, 2, a=KERNEL_ONLY, b=KERNEL_ONLY)
    assert nodes.offline(0) == {"a"}, "b keeps what it has: its kernel answers"
    assert nodes.down(0) == ["a"]
    rounds(nodes, 60, a=WELL, b=KERNEL_ONLY)
    assert nodes.silent() == ["b"]


def test_a_node_whose_agent_never_spoke_is_given_nothing() -> None:
    nodes = watched()
    rounds(nodes, 50, a=KERNEL_ONLY, b=WELL)
    assert nodes.offline(0) == {"a"}
    assert nodes.nodes["a"].health.state is Health.UNKNOWN


def test_each_repetition_is_waited_for_twice_as_long() -> None:
    hold = HoldDown(10)
    waits = []
    now = 0.0
    for _ in range(9):
        hold.came_back(now)
        waits.append(hold.wait)
        now = hold.until + 1
        assert not hold.held(now)
    assert waits == [10, 20, 40, 80, 160, 320, MOST, MOST, MOST]
    hold.came_back(now + 10 * MOST)
    assert hold.wait == 10


def test_one_lease(tmp_path: Path) -> None:
    one, two = DirectoryLease(tmp_path), DirectoryLease(tmp_path)
    assert one.acquire()
    assert not two.acquire()
    assert "process" in two.holder()
    with pytest.raises(TryAgainError):
        record_assignment(tmp_path, ())
    one.release()
    assert two.acquire()
    (tmp_path / LOCK_FILE).unlink()
    assert not two.held(), "another process could lock a new file now"
    assert one.acquire()


def test_what_is_recorded_is_read_back(tmp_path: Path) -> None:
    DirectoryRecord(tmp_path).write({"a": ("192.0.2.45",)}, {"c", "b"})
    state = read_directory(tmp_path)
    assert state.assignment == {"a": ("192.0.2.45",)}
    assert state.assigned_without == ("b", "c")


def test_a_node_that_flaps_for_an_hour_takes_addresses_twice() -> None:
    nodes = watched()
    rounds(nodes, 3, a=WELL, b=WELL)
    lost = 0
    online = True
    for number in range(2 * 3600):
        now = number / 2
        rounds(nodes, 1, now, a=WELL if now % 20 < 15 else GONE, b=WELL)
        lost += online and "a" in nodes.offline(now)
        online = "a" not in nodes.offline(now)
    assert lost == 2
    rounds(nodes, 3, 3600, a=WELL, b=WELL)
    assert "a" not in nodes.offline(3600 + MOST)
