"""What an agent does while an address goes from its holder to its standby, on fakes: at the pods' node, the standby's,
and the holder's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from egress_router.daemon.heartbeat import Heartbeats
from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.node import agent as agent_module
from egress_router.egressip.node.giving import LINGER
from egress_router.egressip.node.handover import WAIT
from egress_router.egressip.node.replication import Figures
from egress_router.egressip.node.state import Direct, NodeState, Remote
from egress_router.net.icmp_probe import DrainPhase
from egress_router.net.translations import untranslated
from tests.support.fake_node import GONE, UP, FakeNode

IP, POD, FAR_POD, STRANGER = "192.0.2.45", "198.51.100.2", "198.51.101.2", "198.51.100.77"
CIDRS = ("192.0.2.40/29",)
NODES = {
    name: HostSubnet(name, f"192.0.2.{number}", f"198.51.{89 + number}.0/24", egress_cidrs=CIDRS)
    for number, name in enumerate("abc", 11)
}
PODS = {("toto", "one"): Pod("toto", "one", "a", (POD,)), ("toto", "far"): Pod("toto", "far", "b", (FAR_POD,))}


def cluster(holder: str, standby: str = "") -> ClusterState:
    standbys = {IP: standby} if standby else {}
    spaces = {"toto": NetNamespace("toto", 1, (IP,))}
    return ClusterState(spaces, NODES, PODS, {holder: (IP,)}, standbys=standbys)


def record(pod: str, protocol: int = 6) -> bytes:
    ends = b"".join(ip_address(text).packed for text in (pod, "203.0.113.25", IP))
    return bytes((protocol,)) + ends + struct.pack("!HHH", 1234, 80, 4321)


class FakeStandby:
    """``records`` is what others have told of; ``followed`` what it was asked to follow."""

    def __init__(self) -> None:
        self.records: set[bytes] = set()
        self.followed: list[tuple[dict[str, str], dict[str, str], set[str]]] = []
        self.figures = Figures()
        self.idle = True

    def follow(self, to: Mapping[str, str], come_from: Mapping[str, str], keep: Collection[str] = ()) -> None:
        now = (dict(to), dict(come_from), set(keep))
        if not self.followed or self.followed[-1] != now:
            self.followed.append(now)

    def kept(self, ip: str) -> frozenset[bytes]:
        return frozenset(self.records if ip == IP else ())

    def run(self, beat: Callable[[], None] = lambda: None) -> None:
        beat()

    def stop(self) -> None:
        pass


def agent(state: ClusterState, path: Path) -> tuple[FakeNode, FakeStandby]:
    node, standby = FakeNode(state, path), FakeStandby()
    node.agent.connect(node.prober, node.claims, standby)
    node.health = {"b": UP, "c": UP}
    return node, standby


def dies(node: FakeNode, after: float) -> None:
    """Have node b be silent from then on."""

    def silent() -> None:
        node.health["b"] = GONE

    node.loop.call_later(after, silent)


def states(node: FakeNode) -> list[NodeState]:
    return [step[1] for step in node.steps if step[0] == "apply"]


def test_at_the_pods_node_connections_wait_for_the_standby_and_are_led_there(tmp_path: Path) -> None:
    node, _ = agent(cluster("b", "c"), tmp_path)

    def dies() -> None:
        node.health["b"] = GONE

    def lacks() -> None:
        node.health["c"] = replace(UP, pending=frozenset({IP}))
        node.source.set(cluster("c", "a"))

    def has() -> None:
        node.health["c"] = replace(UP, sources={POD: IP})

    node.run(
        5.0,
        (0.9, node.look),
        (1.0, dies),
        (1.8, node.look),
        (2.0, lacks),
        (2.8, node.look),
        (3.0, has),
        (3.8, node.look),
    )
    up, down, lacking, arrived = node.seen
    (to_b,), (to_c,) = ({g.slot for g in up.gateways if g.node == name} for name in "bc")
    assert (up.paths[POD], up.awaited) == (Remote(to_b), frozenset()), "the standby is asked before it is needed"
    assert (down.paths[POD], set(down.awaited)) == (Direct.NO_GATEWAY, {to_b})
    assert (lacking.paths[POD], set(lacking.awaited)) == (Direct.NO_GATEWAY, {to_b})
    assert (arrived.paths[POD], arrived.awaited) == (Remote(to_c), frozenset())
    assert [step for step in node.steps if step[0] == "lead"] == [("lead", [POD], to_b, to_c)]
    place = node.names().index("lead")
    assert to_b in next(step[1] for step in reversed(node.steps[:place]) if step[0] == "apply").awaited
    assert to_b not in next(step[1] for step in node.steps[place:] if step[0] == "apply").awaited


def test_who_has_another_address_of_a_dead_holder_does_not_wait(tmp_path: Path) -> None:
    other = "198.51.100.3"
    held = {name: replace(NODES[name], egress_ips=(ip,)) for name, ip in (("b", "192.0.2.51"), ("c", "192.0.2.52"))}
    spaces = {"titi": NetNamespace("titi", 2, ("192.0.2.51", "192.0.2.52"))}
    pods = {("titi", "one"): Pod("titi", "one", "a", (other,))}
    state = cluster("b", "c")
    state = replace(
        state,
        namespaces={**state.namespaces, **spaces},
        nodes={**state.nodes, **held},
        pods={**state.pods, **pods},
    )
    node, _ = agent(state, tmp_path)

    def dies() -> None:
        node.health["b"] = GONE

    node.run(3.0, (0.9, node.look), (1.0, dies), (1.8, node.look))
    up, down = node.seen
    (to_b,), (to_c,) = ({g.slot for g in up.gateways if g.node == name} for name in "bc")
    assert up.translating_nodes == {POD: {to_b}, other: {to_b, to_c}}
    assert down.awaited == {to_b}
    assert down.translating_nodes == {POD: {to_b}, other: {to_c}}


def test_nobody_waits_where_nobody_stands_by_nor_for_ever(tmp_path: Path) -> None:
    alone, _ = agent(cluster("b"), tmp_path)
    dies(alone, 1.0)
    alone.run(3.0)
    assert not any(state.awaited for state in states(alone))
    late, _ = agent(cluster("b", "c"), tmp_path)
    dies(late, 1.0)
    late.run(WAIT + 8.0)
    assert any(state.awaited for state in states(late))
    assert not states(late)[-1].awaited
    assert len(states(late)) < 20, "nor is everything done again and again meanwhile"


def test_a_standby_makes_the_connections_before_it_has_the_address(tmp_path: Path) -> None:
    node, standby = agent(cluster("b", "a"), tmp_path)
    standby.records = {record(POD), record(FAR_POD), record(STRANGER)}
    dies(node, 0.9)
    node.run(4.0, (1.6, lambda: node.source.set(cluster("a", "c"))))
    assert standby.followed[0] == ({}, {IP: "192.0.2.12"}, set())
    former = {IP: "192.0.2.12"}
    assert standby.followed[1] == ({IP: "192.0.2.13"}, former, set())
    names = [name for name in node.names() if name in ("check", "restore", "add", "announce", "look again")]
    assert names[-5:] == ["restore", "restore", "add", "announce", "look again"]
    assert ("have asked", "192.0.2.12") in node.steps, "the former holder, which has a pod of it as well"
    own = [ip_address(POD).packed]
    restored = [step for step in node.steps if step[0] == "restore"]
    assert restored == [("restore", [record(FAR_POD)], own), ("restore", [record(POD)], own)]
    assert node.agent.taken_over == 2


def test_what_a_living_holder_gives_is_announced_when_its_own_pods_leave_by_its_standby(tmp_path: Path) -> None:
    """Answers that came from a node to pods of the other, which still translates them itself, would be of nothing that
    it knows; so pods of the standby leave by the former holder until then, and the other way round.
    """
    node, standby = agent(cluster("b", "a"), tmp_path)
    standby.records = {record(POD), record(FAR_POD)}
    seen: list[tuple[object, list[str]]] = []
    answered: list[bool] = []

    def look() -> None:
        assert node.dataplane.applied is not None
        names = [name for name in node.names() if name in ("restore", "add", "announce")]
        answered.append(IP in node.claims.answered)
        seen.append((node.dataplane.applied.paths[POD], names))

    def sends() -> None:
        node.prober.senders = ["192.0.2.12"]

    after = 1.0 + agent_module.ANNOUNCED_AFTER
    plan = [(1.0, lambda: node.source.set(cluster("a", "c"))), (after + 0.4, look), (after + 0.5, sends)]
    node.run(4.0, *plan, (after + 1.0, look))
    (slot,) = {gateway.slot for gateway in states(node)[1].gateways if gateway.node == "b"}
    assert seen[0] == (Remote(slot), ["restore", "add"])
    assert answered == [False, True], "nor do announcements of the last time go on"
    assert seen[1] == (Direct.LOCAL_GATEWAY, ["restore", "add", "restore", "announce"])
    ever, _ = agent(cluster("b", "a"), tmp_path)
    ever.run(5.0, (1.0, lambda: ever.source.set(cluster("a", "c"))))
    assert "announce" in ever.names(), "it is not waited for for ever"


def test_the_loop_beats_while_many_connections_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "MADE_AT_ONCE", 2)
    node, standby = agent(cluster("b", "a"), tmp_path)
    standby.records = {record(POD, protocol) for protocol in (6, 17, 132)}
    beat = Heartbeats.beat

    def beats(self: Heartbeats, name: str) -> None:
        node.steps.append(("beat",))
        beat(self, name)

    monkeypatch.setattr(Heartbeats, "beat", beats)
    dies(node, 0.9)
    node.run(4.0, (1.6, lambda: node.source.set(cluster("a", "c"))))
    names = node.names()
    made = [place for place, name in enumerate(names) if name == "restore"]
    assert [names[place - 1] for place in made] == ["beat", "beat"]
    assert sorted(len(node.steps[place][1]) for place in made) == [1, 2]
    assert names.index("add") > made[-1]
    assert node.agent.taken_over == 3


def test_of_an_address_of_two_namespaces_nothing_goes_on(tmp_path: Path) -> None:
    node, standby = agent(cluster("b", "a"), tmp_path)
    standby.records = {record(POD)}
    both = {**cluster("a").namespaces, "rival": NetNamespace("rival", 2, (IP,))}
    node.run(4.0, (1.0, lambda: node.source.set(replace(cluster("a"), namespaces=both))))
    assert node.agent.taken_over == 0


def test_a_holder_that_gives_an_address_away_leads_its_own_pods_connections_to_who_has_it(tmp_path: Path) -> None:
    node, standby = agent(cluster("a", "c"), tmp_path)
    datagrams = record(POD, 17)
    node.dataplane.open = [record(POD), record(FAR_POD), datagrams]

    def moves() -> None:
        node.health["c"] = replace(UP, pending=frozenset({IP}))
        node.source.set(cluster("c", "b"))

    def asked() -> None:
        node.look()
        assert node.agent.payload([POD, STRANGER])["pods"] == {STRANGER: ""}, "who asks for a way finds none here"
        assert set(node.prober.pods["c"]) == {POD}, "a pod of its own, which the standby is to translate"
        assert standby.followed[-1][0] == {IP: "192.0.2.13"}, "it tells of what begins"
        node.health["c"] = replace(UP, sources={POD: IP})

    node.run(3.0 + LINGER, (1.0, moves), (1.9, asked), (2.5, node.look), (2.8 + LINGER, node.look))
    gives, gave, over = node.seen
    assert (gives.assigned, gives.lingering) == (frozenset(), frozenset({IP})), (
        "it answers for it no more, and translates"
    )
    assert (gives.paths[POD], gives.translations) == (Direct.LOCAL_GATEWAY, {POD: IP, FAR_POD: IP})
    assert (type(gave.paths[POD]), gave.translations) == (Remote, {POD: IP, FAR_POD: IP}), "of those on their way"
    assert (over.lingering, over.translations) == (frozenset(), {})
    assert standby.followed[-1][0] == {}
    (led,) = (step for step in node.steps if step[0] == "go on by")
    slot = next(g.slot for g in states(node)[-1].gateways if g.node == "c")
    assert led == ("go on by", [record(POD)], slot)
    names = node.names()
    place = names.index("go on by")
    assert (names[place - 1], node.steps[place - 1]) == ("open with", ("open with", [IP]))
    assert next(step[1] for step in reversed(node.steps[:place]) if step[0] == "apply").lingering == {IP}


def test_a_holder_gives_to_nobody_else_and_not_for_ever(tmp_path: Path) -> None:
    elsewhere, _ = agent(cluster("a", "c"), tmp_path)
    elsewhere.run(3.0, (1.0, lambda: elsewhere.source.set(cluster("b", "c"))))
    assert not any(state.lingering for state in states(elsewhere)), "b has none of the connections"
    never, _ = agent(cluster("a", "c"), tmp_path)

    def moves() -> None:
        never.health["c"] = replace(UP, pending=frozenset({IP}))
        never.source.set(cluster("c", "b"))

    never.run(WAIT + 3.0, (1.0, moves))
    assert any(state.lingering for state in states(never))
    assert (states(never)[-1].lingering, states(never)[-1].translations) == (frozenset(), {})
    back, _ = agent(cluster("a", "c"), tmp_path)
    back.run(4.0, (1.0, lambda: back.source.set(cluster("c", "b"))), (1.5, lambda: back.source.set(cluster("a", "c"))))
    assert (states(back)[-1].lingering, states(back)[-1].assigned) == (frozenset(), frozenset({IP}))
    has = next(place for place, state in enumerate(states(back)) if state.assigned)
    assert all(state.translations for state in states(back)[has:]), "nobody else had them, so none was cut"
    lost, _ = agent(cluster("a", "c"), tmp_path)
    spaces = {"toto": NetNamespace("toto", 1, ("192.0.2.46",))}
    lost.run(3.0, (1.0, lambda: lost.source.set(replace(cluster("c", "b"), namespaces=spaces))))
    assert not any(state.lingering or state.translations for state in states(lost)[2:]), "it is the namespace's no more"


def test_at_the_pods_node_what_a_living_holder_gave_away_is_not_cut_before(tmp_path: Path) -> None:
    node, _ = agent(cluster("b", "c"), tmp_path)

    def moves() -> None:
        node.health["c"] = replace(UP, pending=frozenset({IP}))
        node.source.set(cluster("c", "a"))

    def has() -> None:
        node.health["c"] = replace(UP, sources={POD: IP})

    node.run(4.0, (1.0, moves), (1.8, node.look), (2.0, has), (3.0, node.look))
    waits, over = node.seen
    slots = {gateway.node: gateway.slot for gateway in waits.gateways}
    assert slots["b"] in waits.translating_nodes[POD]
    assert waits.awaited == frozenset()
    assert waits.paths[POD] == Remote(slots["b"]), "what begins goes there, too"
    assert over.paths[POD] == Remote(slots["c"])
    assert over.translating_nodes[POD] == {slots["c"]}
    assert ("lead", [POD], slots["b"], slots["c"]) in node.steps


def test_connections_that_were_led_are_not_cut_when_the_standby_lacks_the_address_again(tmp_path: Path) -> None:
    """Somebody took it off its interface, say. What sends nothing by itself would be lost."""
    node, _ = agent(cluster("b", "c"), tmp_path)

    def dies() -> None:
        node.health["b"] = GONE
        node.health["c"] = replace(UP, sources={POD: IP})

    def lacks() -> None:
        assert [step[0] for step in node.steps if step[0] == "lead"] == ["lead"]
        node.health["c"] = replace(UP, pending=frozenset({IP}))

    node.run(4.0, (1.0, dies), (2.0, lambda: node.source.set(cluster("c", "a"))), (2.5, lacks), (3.0, node.look))
    (state,) = node.seen
    slot = next(gateway.slot for gateway in state.gateways if gateway.node == "c")
    assert state.paths[POD] == Direct.NO_GATEWAY, "nothing new"
    assert state.translating_nodes[POD] == {slot}


def test_a_drain_waits_for_connections_only_where_no_standby_has_them(tmp_path: Path) -> None:
    node, standby = agent(cluster("a", "c"), tmp_path)
    node.connections[POD] = 3
    seen: list[DrainPhase] = []

    def look() -> None:
        seen.append(node.agent.drain_phase())

    def in_step() -> None:
        standby.figures = Figures(connected={"192.0.2.13": True}, lag={"192.0.2.13": 0.1}, complete=True)

    def lags() -> None:
        standby.figures = replace(standby.figures, lag={"192.0.2.13": 5.0})

    plan = [(1.0, lambda: node.agent.drain(60.0)), (2.0, look), (2.1, in_step), (2.5, look), (2.6, lags), (3.0, look)]
    node.run(4.0, *plan)
    assert seen == [DrainPhase.WAITS, DrainPhase.OVER, DrainPhase.WAITS]


def test_untranslated_is_the_same_connection_with_the_pods_own_source() -> None:
    made = untranslated(record(POD))
    assert made[1:5] == made[9:13] == ip_address(POD).packed
    assert struct.unpack("!HHH", made[13:]) == (1234, 80, 1234)


def test_nobody_is_led_to_a_standby_that_has_not_said_that_it_translates(tmp_path: Path) -> None:
    """It lacks nothing by its last word, which is from before it heard that it is to have the address."""
    node, _ = agent(cluster("b", "c"), tmp_path)

    def dies() -> None:
        node.health["b"] = GONE

    node.run(4.0, (1.0, dies), (2.0, lambda: node.source.set(cluster("c", "a"))))
    assert "lead" not in node.names()


def test_a_standby_asks_who_has_the_address_as_soon_as_the_holder_is_silent(tmp_path: Path) -> None:
    node, _ = agent(cluster("b", "a"), tmp_path)

    def dies() -> None:
        node.health["b"] = GONE

    def moves() -> None:
        seen.append(node.names().count("check"))
        node.source.set(cluster("a", "c"))

    seen: list[int] = []
    node.run(4.0, (1.0, dies), (2.0, moves))
    assert seen[0] > 1, "again and again"
    names = node.names()
    assert names.count("check") == seen[0], "the answer was there"
    assert names.index("add") < names.index("look again")
    assert states(node)[-1].assigned == {IP}


def test_a_holder_that_is_silent_to_its_standby_alone_answers_for_its_address(tmp_path: Path) -> None:
    node, _ = agent(cluster("b", "a"), tmp_path)
    node.claims.duplicates = {IP: "02:00:00:00:00:99 has it"}

    def dies() -> None:
        node.health["b"] = GONE

    seen: list[int] = []

    def look() -> None:
        seen.append(len(states(node)))

    def moves() -> None:
        assert node.names().count("check") > 1
        look()
        node.source.set(cluster("a", "c"))

    node.run(3.0, (1.0, dies), (1.6, look), (2.0, moves))
    assert seen[0] == seen[1], "nothing is wrong, and nothing done, before it is to have it"
    assert "add" not in node.names()
    assert states(node)[-1].assigned == frozenset()


def test_an_address_taken_in_a_hurry_is_given_up_when_somebody_answers_after_all(tmp_path: Path) -> None:
    node, _ = agent(cluster("b", "a"), tmp_path)

    def answers() -> None:
        assert node.agent.local.assigned == {IP}
        node.claims.duplicates = {IP: "02:00:00:00:00:99 has it"}
        node.agent.on_duplicate_check(node.claims.duplicates)

    node.run(4.0, (1.0, lambda: node.source.set(cluster("a"))), (2.0, answers))
    assert states(node)[-1].assigned == frozenset()
    assert node.agent.local.duplicates == {IP: "02:00:00:00:00:99 has it"}


def test_a_standby_without_pods_of_its_own_waits_for_the_holders_as_well(tmp_path: Path) -> None:
    """Answers to pods of the holder, which it translates itself until they leave by the standby, would be lost."""
    state = replace(cluster("b", "a"), pods={key: pod for key, pod in PODS.items() if pod.node == "b"})
    node, _ = agent(state, tmp_path)
    seen: list[bool] = []

    def look() -> None:
        assert node.agent.local.assigned == {IP}
        seen.append(IP in node.claims.answered)

    def sends() -> None:
        node.prober.senders = ["192.0.2.12"]

    moved, after = replace(cluster("a", "c"), pods=state.pods), 1.0 + agent_module.ANNOUNCED_AFTER
    node.run(4.0, (1.0, lambda: node.source.set(moved)), (after + 0.3, look), (after + 0.4, sends), (after + 0.7, look))
    assert seen == [False, True]


def test_what_was_asked_early_and_is_answered_late_makes_no_connection_twice(tmp_path: Path) -> None:
    """The holder's silence is asked about again and again, so often a question is on its way when the address comes."""
    node, standby = agent(cluster("b", "a"), tmp_path)
    standby.records = {record(FAR_POD)}
    dies(node, 1.0)

    def late() -> None:
        assert node.agent.local.assigned == {IP}
        # The former holder is back, and does not have the address.
        node.agent.on_duplicate_check({IP: ""})

    def back() -> None:
        node.health["b"] = UP

    node.run(6.0, (2.0, lambda: node.source.set(cluster("a", "c"))), (2.3, back), (3.5, late))
    assert [step[0] for step in node.steps if step[0] in ("restore", "add", "announce")] == [
        "restore",
        "add",
        "announce",
    ]
    assert node.agent.taken_over == 1
    assert node.claims.answered == {IP}, "its announcements go on"


def test_an_address_that_went_away_while_its_former_holder_lives_is_announced_again(tmp_path: Path) -> None:
    node, _ = agent(cluster("b", "a"), tmp_path)
    taken = 1.0 + agent_module.ANNOUNCED_AFTER_MOST + 0.5

    def gone() -> None:
        assert node.claims.answered == {IP}
        node.steps.append(("gone",))
        node.dataplane.take_away(IP)

    node.run(12.0, (1.0, lambda: node.source.set(cluster("a", "c"))), (taken, gone))
    names = node.names()
    assert "announce" in names[names.index("gone") :]
    assert node.claims.answered == {IP}


def test_a_holder_that_dies_before_its_address_is_announced_is_not_waited_for(tmp_path: Path) -> None:
    node, _ = agent(cluster("b", "a"), tmp_path)
    seen: list[bool] = []

    def look() -> None:
        seen.append(IP in node.claims.answered)

    moved = 1.0
    down = 0.05 + 4 * 0.1
    dies(node, moved + 0.02)
    node.run(4.0, (moved, lambda: node.source.set(cluster("a", "c"))), (moved + 0.1, look), (moved + down, look))
    assert down < agent_module.ANNOUNCED_AFTER
    assert seen == [False, True]
    assert node.names().count("announce") == 1


def test_a_holder_without_pods_of_its_own_hears_of_its_standby_and_stops_as_soon(tmp_path: Path) -> None:
    pods = {("toto", "far"): PODS["toto", "far"]}
    node, standby = agent(replace(cluster("a", "c"), pods=pods), tmp_path)

    def moves() -> None:
        node.health["c"] = replace(UP, pending=frozenset({IP}))
        node.source.set(replace(cluster("c", "b"), pods=pods))

    def has() -> None:
        assert {*node.prober.targets} >= {"c"}
        assert node.prober.pods["c"] == [FAR_POD]
        node.health["c"] = replace(UP, sources={FAR_POD: IP})

    node.run(5.0 + LINGER, (1.0, moves), (1.9, has), (2.5, node.look), (2.5 + LINGER, node.look))
    assert [state.lingering for state in node.seen] == [{IP}, frozenset()]
    assert standby.followed[-1][0] == {}
