"""What one node's kernel shall hold, and which holders count as up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod, Via
from egress_router.egressip.assignment.decision import decide, with_recorded_assignment
from egress_router.egressip.health import Health, NodeHealth
from egress_router.egressip.node.gateways import Gateways
from egress_router.egressip.node.marks import LAST_SLOT, OWN_SLOT, Marks
from egress_router.egressip.node.nft_rules import elements
from egress_router.egressip.node.plan import PlanInputs, Planner, assign_slots, chosen, kept_by, node_plan
from egress_router.egressip.node.state import Direct, EgressPath, NodeState, Remote

IPS = ("192.0.2.45", "192.0.2.46", "2001:db8:2::45")
STATE = ClusterState(
    {"p": NetNamespace("p", 1, IPS), "q": NetNamespace("q", 2)},
    {
        "a": HostSubnet("a", "192.0.2.1", "198.51.100.0/27"),
        "b": HostSubnet("b", "192.0.2.2", egress_ips=("192.0.2.45", "2001:db8:2::45")),
        "c": HostSubnet("c", "192.0.2.3", egress_ips=("192.0.2.46",)),
    },
    {
        ("p", "here"): Pod("p", "here", "a", ("198.51.100.2", "2001:db8:a::2")),
        ("p", "there"): Pod("p", "there", "b", ("198.51.100.40",)),
        ("q", "here"): Pod("q", "here", "a", ("198.51.100.3",)),
        ("lost", "here"): Pod("lost", "here", "a", ("198.51.100.4",)),
    },
)
SLOTS = {"b": 1, "c": 2}


def plan(
    me: str,
    held: tuple[str, ...] = (),
    offline: tuple[str, ...] = (),
    pending: tuple[str, ...] = (),
    draining: tuple[str, ...] = (),
) -> NodeState:
    return node_plan(me, STATE, decide(STATE, offline), SLOTS, frozenset(held), pending=pending, draining=draining)


def test_a_draining_node_is_the_last_resort() -> None:
    state = plan("a", draining=("b",))
    assert state.paths["198.51.100.2"] == Remote(2)
    assert state.paths["2001:db8:a::2"] == Remote(1), "its only holder drains"
    assert plan("a", draining=("b",), offline=("c",)).paths["198.51.100.2"] == Remote(1)
    assert plan("b", held=("192.0.2.45",), draining=("b",), offline=("c",)).paths == {
        "198.51.100.40": Direct.LOCAL_GATEWAY
    }


def test_a_node_that_holds_nothing() -> None:
    state = plan("a")
    assert state.paths.keys() == {"198.51.100.2", "2001:db8:a::2", "198.51.100.3"}
    assert state.paths["198.51.100.3"] == Direct.NODE_ADDRESS
    assert state.paths["198.51.100.2"] in (Remote(1), Remote(2))
    assert state.paths["2001:db8:a::2"] == Remote(1)
    assert state.translations == {}
    assert state.egress == {"198.51.100.2", "2001:db8:a::2"}
    assert state.peers == {"192.0.2.2", "192.0.2.3"}
    assert state.pods == {"198.51.100.0/27", "2001:db8:a::2"}


def test_families_are_apart() -> None:
    """No IPv6 address is left: IPv6 is dropped, IPv4 goes on."""
    state = plan("a", offline=("b",))
    assert state.paths["198.51.100.2"] == Remote(2)
    assert state.paths["2001:db8:a::2"] == Direct.NO_GATEWAY


def test_a_holder_translates_for_all_and_sends_its_own_pods_itself() -> None:
    state = plan("b", held=("192.0.2.45", "2001:db8:2::45"))
    assert state.paths == {"198.51.100.40": Direct.LOCAL_GATEWAY}
    assert state.translations == {
        "198.51.100.2": "192.0.2.45",
        "2001:db8:a::2": "2001:db8:2::45",
        "198.51.100.40": "192.0.2.45",
    }


def test_an_address_that_is_not_there_yet_is_not_used() -> None:
    assert plan("b").paths == {"198.51.100.40": Remote(2)}
    assert plan("a", pending=("192.0.2.45",)).paths["198.51.100.2"] == Remote(2)
    assert plan("a", pending=("192.0.2.45", "192.0.2.46")).paths["198.51.100.2"] == Direct.NO_GATEWAY


def test_an_address_that_is_given_away_is_used_at_its_former_holder() -> None:
    decision = kept_by(decide(STATE, ("c",)), {"192.0.2.45": "c"}, {"p", "unknown"})
    assert set(decision.namespaces["p"].via) == {Via("192.0.2.45", "c"), Via("2001:db8:2::45", "b")}
    slots, nothing = {"b": 1, "c": 2}, frozenset[str]()
    inputs = PlanInputs("a", STATE.namespaces, STATE.nodes, decision, slots, nothing)
    state = Planner().plan(inputs, STATE.pods, nothing, slots)
    assert state.paths["198.51.100.2"] == Remote(2)
    own = kept_by(decide(STATE, ()), {"192.0.2.46": "b"}, {"p"})
    gives = replace(inputs, me="b", decision=own, lingering=frozenset({"192.0.2.46"}))
    state = Planner().plan(gives, STATE.pods, nothing, slots)
    assert (state.paths["198.51.100.40"], state.assigned) == (Direct.LOCAL_GATEWAY, nothing)
    assert state.translations == {"198.51.100.2": "192.0.2.46", "198.51.100.40": "192.0.2.46"}
    both = replace(gives, assigned=frozenset({"192.0.2.45"}))
    state = Planner().plan(both, STATE.pods, nothing, slots)
    assert state.translations["198.51.100.40"] == "192.0.2.45", "one that stands here comes first"


def test_a_draining_node_sends_its_pods_elsewhere_and_goes_on_translating() -> None:
    state = plan("b", held=("192.0.2.45",), draining=("b",))
    assert state.paths == {"198.51.100.40": Remote(2)}
    assert state.translations["198.51.100.2"] == "192.0.2.45"


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8, unique=True), st.integers(1, 250))
def test_only_the_pods_of_a_lost_way_move(numbers: list[int], pod: int) -> None:
    ways = [Via(f"192.0.2.{n}", f"n{n}") for n in numbers]
    pod_ip = f"198.51.100.{pod}"
    usual = chosen(pod_ip, ways)
    for lost in ways:
        left = [way for way in ways if way != lost]
        assert chosen(pod_ip, reversed(left)) == (usual if usual != lost else chosen(pod_ip, left))


def test_pods_are_spread() -> None:
    ways = [Via("192.0.2.1", "a"), Via("192.0.2.2", "b")]
    first = sum(chosen(f"10.1.{n // 250}.{n % 250}", ways).node == "a" for n in range(1000))
    assert 420 < first < 580


@given(st.sets(st.integers(0, 30)), st.dictionaries(st.integers(0, 30), st.integers(1, 40), max_size=10))
def test_slots_stay(names: set[int], present: dict[int, int]) -> None:
    present = {name: slot for name, slot in present.items() if list(present.values()).count(slot) == 1}
    slots = assign_slots(map(str, names), {str(name): slot for name, slot in present.items()})
    assert slots.keys() == set(map(str, names))
    assert len(set(slots.values())) == len(slots)
    assert all(slots[str(name)] == slot for name, slot in present.items() if name in names)


def test_slots_end() -> None:
    assert len(assign_slots(map(str, range(LAST_SLOT + 5)), {})) == LAST_SLOT


def test_agents_follow_the_recorded_assignment() -> None:
    state = replace(
        STATE,
        nodes={"a": HostSubnet("a", "192.0.2.1", egress_cidrs=("192.0.2.0/24",)), "c": STATE.nodes["c"]},
        assignment={"a": ("192.0.2.45", "192.0.2.46")},
    )
    decision = decide(with_recorded_assignment(state))
    assert decision.assignment == {}
    assert {name: node.claims for name, node in decision.nodes.items()} == {"a": ("192.0.2.45",), "c": ("192.0.2.46",)}


def test_an_agent_that_starts_keeps_the_holders_that_carry_something() -> None:
    holders = Gateways(misses=3, returns=4)
    holders.follow("a", STATE, decide(STATE))
    holders.adopt({"b": 1, "c": 2, "d": 3}, used={1}, alive={1, 2})
    assert {name: health.state for name, health in holders.health.items()} == {"b": Health.UP, "c": Health.DRAINING}


@pytest.mark.parametrize(
    ("way", "translated", "far"),
    [
        (Remote(1), True, True),
        (Remote(1), False, True),
        (Direct.LOCAL_GATEWAY, True, False),
        (Direct.NODE_ADDRESS, False, False),
        (Direct.NO_GATEWAY, True, False),
        (Direct.NO_GATEWAY, False, True),
    ],
)
def test_flows_are_looked_up_where_their_way_is(way: EgressPath, translated: bool, far: bool) -> None:
    pod = "198.51.100.2"
    state = NodeState({pod: way}, {pod: IPS[0]} if translated else {})
    assert elements(state, Marks())["tunnelled_pods4"] == ({pod: None} if far else {})


def test_a_holder_that_drains_keeps_connections_alone() -> None:
    state = plan("a", draining=("b",))
    found = elements(state, Marks())
    assert found["known_paths"].keys() - found["undrained_paths"].keys() == {f"0x{Marks().mark_of(SLOTS['b']):08x}"}
    assert found["undrained_paths"].keys() == {f"0x{Marks().mark_of(slot):08x}" for slot in (SLOTS["c"], OWN_SLOT)}


def probe(health: NodeHealth, word: str) -> Health:
    """Take in probes: "e" echo, "r" echo and ready, "d" echo and draining, "." nothing."""
    for letter in word:
        health.probed(echo=letter != ".", ready=letter in "rd", draining=letter == "d")
    return health.state


def test_health() -> None:
    def new(state: Health = Health.UNKNOWN) -> NodeHealth:
        return NodeHealth(misses=3, returns=4, state=state)

    assert probe(new(), "eee") is Health.UNKNOWN
    assert probe(new(), "r") is Health.UP
    assert probe(new(Health.UP), "eeeeee") is Health.UP, "an agent that restarts is no outage"
    assert probe(new(Health.UP), "..r..r..") is Health.UP
    assert probe(new(Health.UP), "...") is Health.DOWN
    assert probe(new(Health.DOWN), "eeeeee") is Health.DOWN, "rebooted, translations not there yet"
    assert probe(new(Health.DOWN), "rrr.rrr") is Health.DOWN
    assert probe(new(Health.DOWN), "rrrr") is Health.UP
    assert probe(new(Health.UP), "d") is Health.DRAINING
    assert probe(new(), "ed") is Health.DRAINING, "its connections go on, whoever starts anew"
    assert probe(new(Health.DOWN), "d") is Health.DOWN
    assert probe(new(Health.DRAINING), "eeedddd") is Health.DRAINING
    assert probe(new(Health.DRAINING), "rrrr") is Health.UP
    assert probe(new(Health.DRAINING), "...") is Health.DOWN
