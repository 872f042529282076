"""Where connections lead while an address goes from its holder to its standby."""

from __future__ import annotations

from egress_router.egressip.node.handover import WAIT, Arrival, Handovers

IP = "192.0.2.45"


def _known(holder: str = "a", standby: str = "b") -> Handovers:
    handovers = Handovers()
    handovers.follow({IP}, {IP: holder}, {IP: standby} if standby else {}, (), 0.0)
    return handovers


def test_a_holder_that_is_down_is_waited_for_and_its_standby_arrives() -> None:
    handovers = _known()
    assert handovers.awaited(0.0) == frozenset()
    handovers.follow({IP}, {IP: "a"}, {IP: "b"}, {"a"}, 1.0)
    assert handovers.awaited(1.0) == {"a"}
    assert handovers.due(1.0) == 1.0 + WAIT
    # The address is its standby's by now, and the next standby another one.
    handovers.follow({IP}, {IP: "b"}, {IP: "c"}, {"a"}, 2.0)
    assert handovers.awaited(2.0) == {"a"}
    assert handovers.arrivals({"b": {IP}}) == [], "that it says of none that it lacks it tells nothing"
    assert not handovers.heard(IP, "c")
    assert handovers.heard(IP, "b")
    assert not handovers.heard(IP, "b"), "no news"
    assert handovers.arrivals({}) == [], "nor when it lacks it all the same"
    (arrival,) = handovers.arrivals({"b": {IP}})
    assert arrival == Arrival(IP, "a", "b")
    handovers.settled(arrival, "c")
    assert handovers.awaited(2.0) == frozenset()
    assert handovers.arrivals({"b": {IP}}) == []
    handovers.follow({IP}, {IP: "b"}, {IP: "c"}, {"b"}, 3.0)
    assert handovers.awaited(3.0) == {"b"}, "and so on"


def test_the_objects_may_be_faster_than_the_probes_and_name_no_further_standby() -> None:
    handovers = _known()
    handovers.follow({IP}, {IP: "b"}, {}, (), 1.0)
    assert handovers.awaited(1.0) == {"a"}
    handovers.heard(IP, "b")
    assert handovers.arrivals({"b": {IP}}) == [Arrival(IP, "a", "b")]


def test_a_holder_that_comes_back_is_waited_for_no_more() -> None:
    handovers = _known()
    handovers.follow({IP}, {IP: "a"}, {IP: "b"}, {"a"}, 1.0)
    handovers.follow({IP}, {IP: "a"}, {IP: "b"}, (), 2.0)
    assert (handovers.awaited(2.0), handovers.due(2.0)) == (frozenset(), None)
    assert handovers.arrivals({"a": {IP}}) == []


def test_what_is_heard_counts_for_this_time_alone() -> None:
    handovers = _known()
    handovers.follow({IP}, {IP: "a"}, {IP: "b"}, {"a"}, 1.0)
    assert handovers.heard(IP, "b")
    handovers.follow({IP}, {IP: "a"}, {IP: "b"}, (), 2.0)
    assert not handovers.heard(IP, "b"), "nobody waits for it"
    handovers.follow({IP}, {IP: "b"}, {IP: "c"}, {"a"}, 3.0)
    assert handovers.arrivals({"b": {IP}}) == []


def test_what_begins_goes_to_the_former_holder_while_it_lives_until_the_standby_has_the_address() -> None:
    handovers = _known()
    assert handovers.kept_by(()) == {}
    handovers.follow({IP}, {IP: "b"}, {IP: "c"}, (), 1.0)
    assert handovers.kept_by(()) == {IP: "a"}
    assert handovers.kept_by({"a"}) == {}
    handovers.heard(IP, "b")
    (arrival,) = handovers.arrivals({"b": {IP}})
    handovers.settled(arrival, "c")
    assert handovers.kept_by(()) == {}


def test_nobody_waits_without_a_standby_or_for_ever_or_for_somebody_else() -> None:
    alone = _known(standby="")
    alone.follow({IP}, {IP: "a"}, {}, {"a"}, 1.0)
    assert (alone.awaited(1.0), alone.due(1.0)) == (frozenset(), None)
    late = _known()
    late.follow({IP}, {IP: "a"}, {IP: "b"}, {"a"}, 1.0)
    assert late.awaited(1.0 + WAIT) == frozenset()
    assert late.due(1.0 + WAIT) is None, "or its turn would come again and again"
    late.heard(IP, "b")
    late.follow({IP}, {IP: "b"}, {}, {"a"}, 2.0 + WAIT)
    assert late.arrivals({"b": {IP}}) == []
    other = _known()
    other.follow({IP}, {IP: "c"}, {IP: "b"}, {"a"}, 1.0)
    assert other.awaited(1.0) == frozenset(), "c has none of its connections"


def test_what_nobody_here_uses_is_forgotten() -> None:
    handovers = _known()
    assert handovers
    handovers.follow((), {IP: "a"}, {IP: "b"}, {"a"}, 1.0)
    assert not handovers
