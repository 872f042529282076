"""What rounds of probes say of the way to a gateway and back."""

from __future__ import annotations

from egress_router.egressip.health import NodeHealth
from egress_router.egressip.node.gateways import Gateways
from egress_router.egressip.node.legs import GatewayLegs
from egress_router.egressip.node.state import NodeSettings
from egress_router.net.icmp_probe import Answer
from egress_router.net.tunnel_echo import Leg, echo_request

PORTS = ("UDP port 14790 must be open", 14791, 1450, "198.51.100.1")


def answer(*heard: Leg, asked: tuple[Leg, ...] = (Leg.TUNNEL, Leg.BACK, Leg.FULL_SIZE), word: bool = True) -> Answer:
    legs = {leg: leg in heard for leg in asked}
    lacks = frozenset[str]() if word else None
    return Answer(Leg.DIRECT in heard, word, draining=False, pending=lacks, legs=legs, answers_tunnel=word)


WELL = answer(*Leg)


def test_a_leg_that_works_and_does_not() -> None:
    for leg, misses, words in (
        (Leg.TUNNEL, 3, "UDP port 14790"),
        (Leg.FULL_SIZE, 3, "packets of 1450 bytes"),
        (Leg.BACK, 3, "198.51.100.1"),
    ):
        legs = GatewayLegs()
        assert legs.note(WELL)
        assert not legs.problem("b", *PORTS)
        broken = answer(*(other for other in Leg if other is not leg))
        assert [legs.note(broken) for _ in range(3)] == [True] * (misses - 1) + [False] * (4 - misses)
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
