"""The order of what the controller does, on fakes: nothing moves before it is known who is there and who has what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial

import pytest

from egress_router.daemon.log import LOGGER
from egress_router.daemon.threads import Threads
from egress_router.egressip.api import NO_STANDBYS, ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.controller.controller import READ_STANDING_BY, Controller
from egress_router.egressip.controller.watched_nodes import ControllerSettings
from egress_router.egressip.fleet.history import History
from egress_router.egressip.fleet.legs import legs_text
from egress_router.errors import PlatformError, Problem, TryAgainError
from egress_router.net.agent_figures import parts_of
from egress_router.net.icmp_probe import Answer, DrainPhase
from tests.support.fake_loop import FakeClock, fake_loop
from tests.support.fake_node import GONE, UP, FakeProber, FakeSource

IP = "192.0.2.45"
STATE = ClusterState(
    {"toto": NetNamespace("toto", 1, (IP,))},
    {name: HostSubnet(name, f"192.0.2.{n}", egress_cidrs=("192.0.2.0/24",)) for n, name in enumerate("ab", 11)},
    {},
)
SETTINGS = ControllerSettings(probe_interval=0.5, probe_misses=3, probe_returns=3, hold_down=10.0)


class FakeLease:
    def __init__(self) -> None:
        self.free = self.mine = True
        self.released = False

    def acquire(self) -> bool:
        return self.free

    def held(self) -> bool:
        return self.mine

    def holder(self) -> str:
        return "another one"

    def release(self) -> None:
        self.released = True


class FakeRecord:
    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.written: list[tuple[float, dict[str, list[str]], list[str]]] = []
        self.error: Exception | None = None
        self.standbys: dict[str, str] = {}

    def write(
        self,
        assignment: Mapping[str, Collection[str]],
        offline: Iterable[str],
        standbys: Mapping[str, str] = NO_STANDBYS,
    ) -> None:
        if self.error is not None:
            raise self.error
        found = {node: list(ips) for node, ips in assignment.items() if ips}
        self.written.append((self._clock.now, found, sorted(offline)))
        self.standbys = dict(standbys)


class Cluster:
    """A controller on fakes; ``health`` is what each node answers."""

    def __init__(self, state: ClusterState = STATE, settings: ControllerSettings = SETTINGS) -> None:
        self.clock = FakeClock(0.0)
        self.loop = fake_loop(self.clock)
        self.source, self.lease, self.record = FakeSource(state), FakeLease(), FakeRecord(self.clock)
        self.health: dict[str, Answer] = {"a": UP, "b": UP}
        self.probers: dict[int, FakeProber] = {}
        self.broken = {6}
        self.controller = Controller(
            settings,
            self.source,
            self.record,
            self.lease,
            self.loop,
            Threads(self.loop),
            make_prober=self._make_prober,
            own_addresses=lambda: {"192.0.2.10"},
        )
        self.loop.every(SETTINGS.probe_interval, self._round)

    def _make_prober(self, version: int, on_answers: Callable[[Mapping[str, Answer]], None]) -> FakeProber:
        if version in self.broken:
            raise PlatformError("no such family")
        prober = self.probers[version] = FakeProber([])
        prober.answers = on_answers
        return prober

    def _round(self) -> None:
        for prober in self.probers.values():
            prober.answers({name: self.health[name] for name in prober.targets})

    def run(self, seconds: float, *plan: tuple[float, Callable[[], object]]) -> None:
        for after, action in plan:
            self.loop.call_later(after, action)
        self.loop.call_later(seconds, self.loop.stop)
        self.controller.run()


@pytest.fixture
def fakes() -> Cluster:
    return Cluster()


def holder(fakes: Cluster) -> str:
    """The node that has the address by what was written last."""
    ((node, ips),) = fakes.record.written[-1][1].items()
    assert ips == [IP]
    return node


def test_nothing_is_written_before_the_first_rounds_of_probes(fakes: Cluster) -> None:
    fakes.run(10.0)
    assert fakes.record.written[0][0] >= SETTINGS.probe_interval * (SETTINGS.probe_misses + 2)
    assert len(fakes.record.written) == 1
    assert fakes.lease.released
    assert fakes.probers[4].steps == [("stop",)]


def test_what_agents_tell_is_in_the_fleet(fakes: Cluster) -> None:
    """Connections of the address at its holder, the way between two holders that one of them misses, an agent that says
    nothing.
    """
    (told,) = parts_of("0.1.0", {IP: 7}, {IP: 5}, {"refused": 3}, {"b": "tunnel"})
    fakes.health["a"] = replace(UP, figures=told)
    fakes.health["b"] = replace(GONE, echo=True)
    fakes.run(30.0)
    fleet = fakes.controller.fleet()
    (row,) = fleet.addresses
    assert (row.node, row.connections, row.ports) == ("a", 7, 5)
    nodes = {node.name: node for node in fleet.nodes}
    assert (nodes["a"].version, nodes["a"].drops, legs_text(nodes["a"].legs)) == (
        "0.1.0",
        (("refused", 3),),
        "ICMP, tunnel, agent work",
    )
    assert legs_text(nodes["b"].legs) == "tunnel fails from a; agent fails; ICMP works"
    assert (nodes["b"].version, fleet.versions) == ("", (("0.1.0", 1),))


def test_who_stands_by_probes_nobody_and_leads_when_the_lease_is_free(fakes: Cluster) -> None:
    fakes.lease.free = False
    seen: list[object] = []

    def look() -> None:
        seen.extend([dict(fakes.probers), fakes.controller.reasons(0.0), fakes.controller.known.leads])
        fakes.lease.free = True

    fakes.run(20.0, (5.0, look))
    assert seen == [{}, [], False]
    assert fakes.controller.known.leads
    assert fakes.record.written[0][0] > 5.0


def test_an_address_moves_from_a_node_that_dies_and_stays_when_it_is_back(fakes: Cluster) -> None:
    first: list[str] = []

    def dies() -> None:
        first.append(holder(fakes))
        fakes.health[first[0]] = GONE

    def returns() -> None:
        fakes.health[first[0]] = UP

    fakes.run(60.0, (5.0, dies), (15.0, returns))
    assert [written[2] for written in fakes.record.written] == [[], first, []]
    assert holder(fakes) != first[0]
    assert fakes.controller.known.moves == 1


def test_a_drain_moves_what_was_given_once_no_connection_is_waited_for(fakes: Cluster) -> None:
    first: list[str] = []

    def waits() -> None:
        first.append(holder(fakes))
        fakes.health[first[0]] = replace(UP, draining=True, drain=DrainPhase.WAITS)

    def agent_restarts() -> None:
        fakes.health[first[0]] = replace(GONE, echo=True)

    def over() -> None:
        fakes.health[first[0]] = replace(UP, draining=True, drain=DrainPhase.OVER)

    def undrained() -> None:
        fakes.health[first[0]] = UP

    fakes.run(60.0, (5.0, waits), (15.0, agent_restarts), (20.0, over), (40.0, undrained))
    (_, before, _), (at, after, offline) = fakes.record.written
    assert list(before) == first
    assert 20.0 <= at < 22.0, "not before, whatever becomes of its agent"
    assert (list(after), offline) == ([name for name in "ab" if name not in first], [])


def test_a_drained_node_keeps_what_no_other_node_can_take(fakes: Cluster) -> None:
    capacity = {name: replace(node, capacity=1) for name, node in STATE.nodes.items()}
    other = "192.0.2.46"
    spaces = {"toto": NetNamespace("toto", 1, (IP,)), "rival": NetNamespace("rival", 2, (other,))}
    fakes.source.set(replace(STATE, namespaces=spaces, nodes=capacity))

    def over() -> None:
        fakes.health["a"] = replace(UP, draining=True, drain=DrainPhase.OVER)

    def third() -> None:
        fakes.health["c"] = UP
        more = HostSubnet("c", "192.0.2.13", egress_cidrs=("192.0.2.0/24",), capacity=1)
        # The source gives what stands written.
        written = {name: tuple(ips) for name, ips in fakes.record.written[-1][1].items()}
        fakes.source.set(ClusterState(spaces, {**capacity, "c": more}, {}, written))

    fakes.run(60.0, (5.0, over), (30.0, third))
    (_, before, _), (at, after, _) = fakes.record.written
    assert set(before) == {"a", "b"}
    assert at >= 30.0, "until another one can take it"
    assert after == {"b": before["b"], "c": before["a"]}


def test_when_no_other_machine_answers_nothing_moves(fakes: Cluster) -> None:
    def cut_off() -> None:
        fakes.health.update(a=GONE, b=GONE)

    fakes.run(30.0, (5.0, cut_off))
    assert len(fakes.record.written) == 1
    assert "no other machine answers by IPv4; what others hold stays" in fakes.controller.status()["problems"]  # type: ignore[operator]


def test_the_last_word_of_a_node_that_is_gone_does_not_hide_that_nobody_answers(fakes: Cluster) -> None:
    """A round that was reported while the objects were read."""
    third = {**STATE.nodes, "c": HostSubnet("c", "192.0.2.13")}
    fakes.health["c"] = UP
    fakes.source.set(replace(STATE, nodes=third))

    def removed() -> None:
        written = {name: tuple(ips) for name, ips in fakes.record.written[-1][1].items()}
        fakes.source.set(replace(STATE, assignment=written))

    def late() -> None:
        assert "c" not in fakes.probers[4].targets
        fakes.controller.on_answers(4, dict.fromkeys("abc", UP))

    def cut_off() -> None:
        fakes.health.update(a=GONE, b=GONE)

    fakes.run(30.0, (5.0, removed), (5.2, late), (6.0, cut_off))
    assert len(fakes.record.written) == 1
    assert "no other machine answers by IPv4; what others hold stays" in fakes.controller.status()["problems"]  # type: ignore[operator]


@pytest.mark.parametrize("speaks", [True, False])
def test_a_new_controller_gives_up_no_standby_whose_agent_is_slow_to_speak(*, speaks: bool) -> None:
    """The one before died with the holder: what the standby keeps would be lost."""
    settings = replace(SETTINGS, probe_interval=0.1, standby=True)
    state = replace(STATE, assignment={"a": (IP,)}, standbys={IP: "b"})
    fakes = Cluster(state, settings)
    fakes.health.update(a=GONE, b=Answer(echo=True, ready=False, draining=False))

    def said() -> None:
        fakes.health["b"] = UP

    fakes.run(8.0, *([(1.2, said)] if speaks else []))
    at, found, _ = fakes.record.written[0]
    assert ("b" in found) is speaks
    assert at <= 2.6, "nor is it waited for for long"


def test_what_cannot_be_written_is_tried_again_and_said(
    fakes: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "handlers", [caplog.handler])
    monkeypatch.setattr(LOGGER, "propagate", False)
    caplog.set_level(logging.INFO)
    fakes.record.error = OSError(28, "No space left on device")
    reasons: list[list[str]] = []

    def heal() -> None:
        reasons.append(fakes.controller.reasons(0.0))
        fakes.record.error = None

    fakes.run(20.0, (8.0, heal))
    assert reasons == [["the assignment cannot be written: [Errno 28] No space left on device"]]
    assert fakes.controller.reasons(0.0) == []
    waits = [record.getMessage().rsplit(" ", 2)[1] for record in caplog.records if "tried again" in record.getMessage()]
    assert waits[:4] == ["0.5", "1", "2", "4"]
    assert (fakes.controller.known.writes, fakes.controller.known.moves) == (1, 0)


def test_a_lease_that_is_lost_ends_the_process_before_anything_is_written(fakes: Cluster) -> None:
    fakes.lease.mine = False
    with pytest.raises(TryAgainError, match="another controller may assign now"):
        fakes.run(10.0)
    assert fakes.record.written == []
    assert fakes.probers[4].steps == [("stop",)]


def test_objects_that_change_are_followed(fakes: Cluster) -> None:
    third = HostSubnet("c", "192.0.2.13", egress_cidrs=("192.0.2.0/24",))
    fakes.health["c"] = UP
    fakes.run(10.0, (5.0, lambda: fakes.source.set(replace(STATE, nodes={**STATE.nodes, "c": third}))))
    assert fakes.probers[4].targets == {"a": "192.0.2.11", "b": "192.0.2.12", "c": "192.0.2.13"}


def test_pods_that_come_and_go_decide_nothing(fakes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fleet's page has them all the same."""
    decisions: list[float] = []
    monkeypatch.setattr(History, "observe", lambda *_: decisions.append(fakes.clock.now))
    pods = {("toto", "one"): Pod("toto", "one", "a", ("198.51.100.2",))}

    def change(number: int) -> None:
        fakes.source.set(replace(fakes.controller._state, pods=pods if number % 2 else {}))

    fakes.run(4.0, *((3.0 + n / 100, partial(change, n)) for n in range(50)))
    assert len([at for at in decisions if 3.0 <= at < 3.5]) <= 1
    assert fakes.controller._state.pods == pods


def test_a_family_that_cannot_be_probed_is_left_out(fakes: Cluster) -> None:
    fakes.broken = {4, 6}
    fakes.run(10.0)
    assert fakes.probers == {}
    assert fakes.controller.known.leads


def test_addresses_stay_until_agents_that_were_never_heard_of_have_had_their_time(fakes: Cluster) -> None:
    fakes.source.state = replace(STATE, nodes={"b": STATE.nodes["b"]}, assignment={"a": (IP,)})
    fakes.controller._unheard = lambda: {"a"} - fakes.source.state.nodes.keys()
    said: list[list[str]] = []

    def speaks() -> None:
        said.append(fakes.controller.reasons(0.0))
        fakes.source.set(replace(STATE, assignment={"a": (IP,)}))

    fakes.run(60.0, (30.0, speaks))
    assert said == [["waits for the agents of nodes that have addresses: a"]]
    assert fakes.record.written == []
    assert fakes.controller.known.ready


def test_an_agent_that_never_speaks_is_waited_for_two_minutes(fakes: Cluster) -> None:
    fakes.source.state = replace(STATE, nodes={"b": STATE.nodes["b"]}, assignment={"a": (IP,)})
    fakes.controller._unheard = lambda: {"a"}
    fakes.run(200.0)
    ((at, assignment, _),) = fakes.record.written
    assert 120.0 <= at < 130.0
    assert assignment == {"b": [IP]}


STAYING = ClusterState(
    {name: NetNamespace(name, 1, (ip,)) for name, ip in (("toto", IP), ("lab", "192.0.2.46"))},
    STATE.nodes,
    {},
    {"a": (IP, "192.0.2.46")},
    staying={IP: "a", "192.0.2.46": "a"},
)


def test_addresses_that_stay_are_not_moved_for_the_balance() -> None:
    fakes = Cluster(STAYING)
    fakes.run(30.0)
    assert fakes.record.written == []
    assert fakes.controller.known.decision.assignment == {"a": (IP, "192.0.2.46")}
    # Without the word, one of them is.
    fakes = Cluster(replace(STAYING, staying={}))
    fakes.run(30.0)
    assert {node: len(ips) for node, ips in fakes.record.written[-1][1].items()} == {"a": 1, "b": 1}


def test_addresses_that_stay_leave_a_node_that_dies() -> None:
    fakes = Cluster(STAYING)
    fakes.run(60.0, (20.0, lambda: fakes.health.update(a=GONE)))
    assert fakes.record.written[-1][1] == {"b": [IP, "192.0.2.46"]}


def test_a_standby_takes_the_address_over_and_keeps_it_whatever_the_balance() -> None:
    """Where its connections are is worth more than the balance; the next to take it over is chosen at once."""
    nodes = {name: HostSubnet(name, f"192.0.2.{n}", egress_cidrs=("192.0.2.0/24",)) for n, name in enumerate("abc", 11)}
    spaces = {f"space{n}": NetNamespace(f"space{n}", n, (f"192.0.2.{n}",)) for n in range(40, 49)}
    fakes = Cluster(ClusterState(spaces, nodes, {}), replace(SETTINGS, standby=True))
    fakes.health["c"] = UP
    seen: list[tuple[dict[str, str], dict[str, str]]] = []

    def look() -> None:
        seen.append(({ip: n for n, ips in fakes.record.written[-1][1].items() for ip in ips}, fakes.record.standbys))

    def set_health(answer: Answer) -> None:
        fakes.health["a"] = answer

    dies, returns = partial(set_health, GONE), partial(set_health, UP)
    fakes.run(60.0, (5.0, look), (6.0, dies), (15.0, look), (16.0, returns), (55.0, look))
    (first, standbys), (second, others), (third, last) = seen
    assert first.keys() == standbys.keys()
    assert all(first[ip] != node for ip, node in standbys.items())
    assert second == {ip: standbys[ip] if node == "a" else node for ip, node in first.items()}
    assert all({second[ip], others[ip]} == {"b", "c"} for ip in second)
    assert third == second, "the return of a node moves nothing"
    assert last == others, "nor does a standby change without a reason"


def test_with_standbys_a_new_address_goes_where_the_fewest_are() -> None:
    """Those that were taken over count, too."""
    nodes = {name: HostSubnet(name, f"192.0.2.{n}", egress_cidrs=("192.0.2.0/24",)) for n, name in enumerate("abc", 11)}
    spaces = {f"space{n}": NetNamespace(f"space{n}", n, (f"192.0.2.{n}",)) for n in range(40, 46)}
    state = ClusterState(spaces, nodes, {})
    fakes = Cluster(state, replace(SETTINGS, standby=True))
    fakes.health["c"] = UP

    def written() -> dict[str, tuple[str, ...]]:
        return {name: tuple(ips) for name, ips in fakes.record.written[-1][1].items()}

    def another() -> None:
        more = {**spaces, "new": NetNamespace("new", 99, ("192.0.2.99",))}
        fakes.source.set(ClusterState(more, nodes, {}, written(), standbys=fakes.record.standbys))

    plan = [(6.0, GONE), (16.0, UP)]
    fakes.run(60.0, *((at, partial(fakes.health.__setitem__, "a", answer)) for at, answer in plan), (40.0, another))
    assert {name: len(ips) for name, ips in written().items()} == {"a": 1, "b": 3, "c": 3}


def test_without_the_option_nobody_is_a_standby(fakes: Cluster) -> None:
    fakes.run(10.0)
    assert fakes.record.standbys == {}


def test_one_that_stands_by_for_long_reads_what_has_changed(fakes: Cluster) -> None:
    """Else what is to be read next grows with every pod that comes and goes."""
    reads: list[float] = []
    read = fakes.source.read

    def counted() -> tuple[ClusterState, tuple[Problem, ...]]:
        reads.append(fakes.clock.now)
        if len(reads) == 2:
            raise OSError("the server is away")
        return read()

    fakes.source.read = counted  # type: ignore[method-assign]
    fakes.lease.free = False
    fakes.run(200.0)
    assert reads == [pytest.approx(READ_STANDING_BY * number, abs=1.0) for number in (1, 2, 3)]
    assert not fakes.record.written
