"""What rounds of probes say of the way to a gateway and back."""

from __future__ import annotations

import random

import pytest

from egress_router.egressip.health import Health, NodeHealth
from egress_router.egressip.node.gateways import Gateways
from egress_router.egressip.node.legs import SELDOM_MISSES, GatewayLegs
from egress_router.egressip.node.state import NodeSettings
from egress_router.net.icmp_probe import Answer
from egress_router.net.tunnel_echo import QUICK_MOST, SELDOM, SELDOM_ROUNDS, Leg, SeldomLegs, echo_request

PORTS = ("UDP port 14790 must be open", 14791, 1450, "198.51.100.1")


def answer(*heard: Leg, asked: tuple[Leg, ...] = (Leg.TUNNEL, Leg.BACK, Leg.FULL_SIZE), word: bool = True) -> Answer:
    legs = {leg: leg in heard for leg in asked}
    lacks = frozenset[str]() if word else None
    return Answer(Leg.DIRECT in heard, word, draining=False, pending=lacks, legs=legs, answers_tunnel=word)


WELL = answer(*Leg)


def test_a_leg_that_works_and_does_not() -> None:
    for leg, misses, words in (
        (Leg.TUNNEL, 3, "UDP port 14790"),
        (Leg.FULL_SIZE, 6, "packets of 1450 bytes"),
        (Leg.BACK, 6, "198.51.100.1"),
    ):
        legs = GatewayLegs()
        assert legs.note(WELL)
        assert not legs.problem("b", *PORTS)
        broken = answer(*(other for other in Leg if other is not leg))
        assert [legs.note(broken) for _ in range(misses)] == [True] * (misses - 1) + [False]
        assert words in legs.problem("b", *PORTS)
        assert not legs.up()[leg.name.lower()]
        assert legs.note(WELL)
        assert not legs.problem("b", *PORTS)


def test_misses_of_both_ways_are_no_row() -> None:
    """Where packets get lost, one or the other misses an answer often: nobody is down for that."""
    legs = GatewayLegs()
    assert legs.note(WELL)
    without_ping, without_tunnel = (
        answer(*(leg for leg in Leg if leg is not lost)) for lost in (Leg.DIRECT, Leg.TUNNEL)
    )
    assert all(legs.note(answered) for _ in range(20) for answered in (without_ping, without_ping, without_tunnel))
    assert not legs.complete
    # No answer at all counts at once, and so does the third miss in a row of one of them.
    assert not legs.note(answer(Leg.BACK, Leg.FULL_SIZE))
    assert (legs.note(WELL), legs.complete) == (True, True)
    assert [legs.note(without_ping) for _ in range(4)] == [True, True, False, False]


class Lossy:
    """An agent's rounds of probes of one holder: packets are lost each way with this probability."""

    def __init__(self, seed: int, loss: float) -> None:
        self._random, self._loss = random.Random(seed), loss
        self._seldom, self._heard = SeldomLegs(), set[Leg]()
        self._number = 0
        self.cut: Leg | None = None
        self.legs = GatewayLegs()
        self.health = NodeHealth(NodeSettings("a", "eth0", ()).probe_misses, 5, Health.UP)
        self.echoes = 0
        for _ in range(2 * SELDOM_ROUNDS):
            self.round(lossless=True)
        assert self.health.state is Health.UP

    def round(self, *, lossless: bool = False) -> None:
        """As Prober._take, Prober._send and Gateways.probed do it."""
        self._number += 1
        asked = {Leg.TUNNEL, *(SELDOM if self._number % SELDOM_ROUNDS == 0 else self._seldom.quick)}
        self.echoes += len(asked & SELDOM)
        for leg in {*asked, Leg.DIRECT}:
            arrives = lossless or (self._random.random() >= self._loss and self._random.random() >= self._loss)
            if arrives and leg is not self.cut:
                self._heard.add(leg)
        self._seldom.note(asked, self._heard)
        answered = answer(*self._heard, asked=tuple(asked))
        self._heard.clear()
        works = self.legs.note(answered)
        self.health.probed(echo=works, ready=True, draining=False)


def test_what_is_lost_now_and_then_makes_no_holder_down_in_a_year() -> None:
    """By calculation, and by a simulation with so much loss that what it counts is not by chance."""
    settings = NodeSettings("a", "eth0", ())
    loss, rounds_a_year = 0.04, 365 * 86400 / settings.probe_interval
    missed = 1 - (1 - loss) ** 2
    in_a_row = SELDOM_MISSES + settings.probe_misses - 1
    assert len(SELDOM) * rounds_a_year / SELDOM_ROUNDS * missed**in_a_row < 1
    # A quarter each way: 0.44 are missed, and six in a row of a leg once in 143 times.
    lossy, broken, rounds = Lossy(1, 0.25), 0, 12_000
    for _ in range(rounds):
        before = [lossy.legs.is_broken(leg) for leg in sorted(SELDOM)]
        lossy.round()
        after = [lossy.legs.is_broken(leg) for leg in sorted(SELDOM)]
        broken += sum(now and not was for was, now in zip(before, after, strict=True))
    expected = len(SELDOM) * rounds / SELDOM_ROUNDS * (1 - (1 - 0.25) ** 2) ** SELDOM_MISSES
    assert 0 < broken < 3 * expected, (broken, expected)


def test_with_loss_nobody_is_down_for_legs_that_are_asked_by_seldom() -> None:
    """A third of an hour with 4 % lost each way; three misses in a row are met in it."""
    lossy = Lossy(2, 0.04)
    for _ in range(15_000):
        lossy.round()
        assert not any(lossy.legs.is_broken(leg) for leg in SELDOM)


@pytest.mark.parametrize("leg", sorted(SELDOM))
@pytest.mark.parametrize("loss", [0.0, 0.04])
def test_a_leg_that_is_cut_makes_a_holder_down_within_two_seconds(leg: Leg, loss: float) -> None:
    interval = NodeSettings("a", "eth0", ()).probe_interval
    for seed in range(60):
        lossy = Lossy(seed, loss)
        for _ in range(seed % 7):
            lossy.round()
        lossy.cut = leg
        rounds = 0
        while lossy.health.state is Health.UP:
            lossy.round()
            rounds += 1
        assert rounds * interval < 2.0
        assert not loss or rounds > SELDOM_MISSES


def test_a_node_that_is_gone_or_a_leg_that_never_works_is_not_asked_by_more_for_long() -> None:
    for cut, silent in ((Leg.BACK, False), (None, True)):
        lossy = Lossy(3, 0.0)
        lossy.cut = cut
        if silent:
            lossy._loss = 1.0
        for _ in range(2 * QUICK_MOST):
            lossy.round()
        before = lossy.echoes
        for _ in range(10 * SELDOM_ROUNDS):
            lossy.round()
        assert lossy.echoes - before == 10 * len(SELDOM)


def test_an_older_agent_answers_no_probe_through_the_tunnel() -> None:
    legs = GatewayLegs()
    old = Answer(
        echo=True, ready=True, draining=False, pending=frozenset(), legs={Leg.TUNNEL: False, Leg.FULL_SIZE: False}
    )
    assert all(legs.note(old) for _ in range(20))
    assert not legs.problem("b", *PORTS)


def test_a_tunnel_that_never_worked_counts_by_the_agents_word() -> None:
    legs = GatewayLegs()
    assert not legs.note(answer(Leg.DIRECT, Leg.BACK))


def test_a_way_back_that_never_worked_is_named_only() -> None:
    legs = GatewayLegs()
    assert all(legs.note(answer(Leg.DIRECT, Leg.TUNNEL, Leg.FULL_SIZE)) for _ in range(20))
    assert "may not arrive" in legs.problem("b", *PORTS)


def test_before_the_tunnel_stands_nothing_is_asked() -> None:
    legs = GatewayLegs()
    assert all(legs.note(answer(Leg.DIRECT, asked=())) for _ in range(20))
    assert not legs.problem("b", *PORTS)


def test_a_silent_agent() -> None:
    legs = GatewayLegs()
    legs.note(WELL)
    quiet = answer(*Leg, word=False)
    assert all(legs.note(quiet) for _ in range(30)), "its kernel goes on"
    assert "its agent says nothing on UDP port 14791" in legs.problem("b", *PORTS)
    assert not legs.up()["agent"]
    assert legs.note(WELL)
    assert not legs.problem("b", *PORTS)


def test_a_node_that_is_gone_has_no_problem_of_its_way() -> None:
    legs = GatewayLegs()
    legs.note(WELL)
    gone = answer(word=False)
    assert not any(legs.note(gone) for _ in range(30))
    assert not legs.problem("b", *PORTS)


def test_an_echo_has_the_size_of_the_whole_packet() -> None:
    for version, header in ((4, 20), (6, 40)):
        assert len(echo_request(version, 7, 1, 1450)) == 1450 - header
        assert len(echo_request(version, 7, 1)) == 8


def test_a_port_that_is_open_to_new_connections_alone_is_named() -> None:
    """Packets of the tunnel are no connections: a rule for the state NEW does not let them in."""
    gateways = Gateways(4, 5, {"b": NodeHealth(4, 5)})
    for _ in range(5):
        gateways.probed({"b": answer(Leg.DIRECT)})
    (problem,) = gateways.leg_problems(NodeSettings("a", "eth0", ()), 1450, "198.51.100.1")
    assert "UDP port 14790 must be open" in problem
    assert "--ctstate UNTRACKED" in problem
