"""The order of what an agent does, on fakes: what it takes over, what it waits for, and what comes before what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from egress_router.daemon.log import LOGGER
from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.node.agent import CHECK_EVERY, HANG_PAUSE, MOST_TOLD, PAUSE_LEAST, Agent
from egress_router.egressip.node.metrics import runtime_metrics
from egress_router.egressip.node.starts import MOST_WAIT
from egress_router.egressip.node.state import Direct, EgressPath, NodeState, Remote
from egress_router.egressip.node.status import status_text
from egress_router.egressip.source.runtime_pods import RuntimePods
from egress_router.errors import PlatformError, ToolHangs, TryAgainError
from egress_router.kubernetes.nri import Plugin
from egress_router.net.tunnel_echo import Leg
from tests.support.fake_node import GONE, HOST_IP, UP, FakeNode

OWN, REMOTE, POD = "192.0.2.45", "192.0.2.54", "198.51.100.2"
STATE = ClusterState(
    {"toto": NetNamespace("toto", 1, (OWN, REMOTE))},
    {
        "a": HostSubnet("a", HOST_IP, "198.51.100.0/24", egress_ips=(OWN,)),
        "b": HostSubnet("b", "192.0.2.12", "198.51.101.0/24", egress_ips=(REMOTE,)),
    },
    {("toto", "one"): Pod("toto", "one", "a", (POD,))},
)
ONLY_REMOTE = replace(
    STATE,
    namespaces={"toto": NetNamespace("toto", 1, (REMOTE,))},
    nodes={**STATE.nodes, "a": replace(STATE.nodes["a"], egress_ips=())},
)


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(STATE, tmp_path)


def applied(node: FakeNode) -> list[NodeState]:
    return [step[1] for step in node.steps if step[0] == "apply"]


def test_a_fresh_node_lets_nothing_out_before_it_is_known_who_is_up(node: FakeNode) -> None:
    node.health["b"] = UP
    node.run(2.0)
    first, *others = applied(node)
    assert first.paths[POD] == Direct.NO_GATEWAY
    assert first.translations == {}
    assert others[-1].paths[POD] in (Direct.LOCAL_GATEWAY, Remote(1))
    assert node.names()[:2] == ["adopt", "check"]
    assert node.names()[-1] == "stop"


def test_a_fresh_node_waits_for_the_first_probes_before_pods_leave_with_its_own_address(tmp_path: Path) -> None:
    """`whenUnavailable: NodeIP` is for when nobody has the address, not for when nobody was asked yet."""
    space = replace(ONLY_REMOTE.namespaces["toto"], node_ip=True)
    node = FakeNode(replace(ONLY_REMOTE, namespaces={"toto": space}), tmp_path)
    node.health["b"] = GONE
    node.run(2.0)
    first, *others = applied(node)
    assert first.excepted == {}
    assert others[-1].excepted == {POD: ("0.0.0.0/0",)}
    up = FakeNode(replace(ONLY_REMOTE, namespaces={"toto": space}), tmp_path)
    up.health["b"] = UP
    up.run(2.0)
    assert all(state.excepted == {} for state in applied(up))


def test_the_first_pod_of_a_namespace_waits_until_its_holder_is_heard(tmp_path: Path) -> None:
    """A holder that nobody was asked about yet may be well: no pod leaves with the node's address for that."""
    space = replace(ONLY_REMOTE.namespaces["toto"], node_ip=True)
    with_pod = replace(ONLY_REMOTE, namespaces={"toto": space})
    node = FakeNode(replace(with_pod, pods={}), tmp_path)
    node.health["b"] = UP
    node.run(3.0, (1.5, partial(node.source.set, with_pod)))
    assert any(state.paths.get(POD) is Direct.NO_GATEWAY for state in applied(node)), "it was not heard at once"
    assert applied(node)[-1].paths[POD] == Remote(1)
    assert all(state.excepted == {} for state in applied(node))
    gone = FakeNode(replace(with_pod, pods={}), tmp_path)
    gone.run(3.0, (1.5, partial(gone.source.set, with_pod)))
    assert applied(gone)[-1].excepted == {POD: ("0.0.0.0/0",)}, "nobody has the address"
    silent = FakeNode(replace(with_pod, pods={}), tmp_path)
    silent.health["b"] = replace(GONE, echo=True)
    silent.run(3.0, (1.5, partial(silent.source.set, with_pod)))
    assert applied(silent)[-1].excepted == {POD: ("0.0.0.0/0",)}, "an agent that says nothing is not waited for"


def test_a_pod_that_waits_is_read_and_put_in_place_at_once(node: FakeNode) -> None:
    """Its start waits for that, so it does not wait its turn as what comes in a row does."""
    new = (("two", "198.51.100.3"), ("six", "198.51.100.6"))
    pods = {("toto", name): Pod("toto", name, "a", (ip,)) for name, ip in new}
    first, both = (replace(STATE, pods={**STATE.pods, **dict(list(pods.items())[:count])}) for count in (1, 2))
    placed: list[ClusterState] = []

    def look() -> None:
        placed.append(node.source.placed[-1])

    def starts(state: ClusterState, *, waits: bool) -> None:
        # As if the reading before had taken its time.
        node.agent._reads_from = node.clock.now + 0.05
        node.source.waits = waits
        node.source.set(state)

    node.run(
        2.0,
        (1.0, partial(starts, first, waits=False)),
        (1.01, look),
        (1.2, partial(starts, both, waits=True)),
        (1.21, look),
    )
    assert [len(state.pods) for state in placed] == [1, 3]
    assert applied(node)[-1].paths.keys() == {POD, "198.51.100.3", "198.51.100.6"}


def test_the_status_says_whether_the_container_runtime_tells_of_pods(node: FakeNode) -> None:
    """It is a problem only where it did, or shall."""
    node.health["b"] = UP
    listener: Any = None
    node.agent.plugin = plugin = Plugin(Path("/run/nri.sock"), listener, LOGGER.info)
    node.run(2.0)

    def figures() -> list[str]:
        return [line.strip() for metric in runtime_metrics(plugin) for line in metric.lines()]

    assert [metric.name for metric in runtime_metrics(None)] == [metric.name for metric in runtime_metrics(plugin)]
    assert node.agent.status()["container_runtime"] is False
    assert node.agent.status()["problems"] == []
    assert "egress_router_node_runtime_connected 0.0" in figures()
    plugin.connected, plugin.late = True, 2
    plugin.calls["run"] += 3
    status = node.agent.status()
    assert status["container_runtime"] is True
    assert "the container runtime tells of pods before they start" in status_text(status)
    assert {
        "egress_router_node_runtime_connected 1",
        "egress_router_node_runtime_late_pods_total 2",
        'egress_router_node_runtime_calls_total{event="run"} 3',
    } <= {line.replace(".0", "") for line in figures()}
    plugin.connected, plugin.why_not = False, "nobody listens there"
    problems = node.agent.status()["problems"]
    assert "the container runtime does not tell of pods (/run/nri.sock: nobody listens there)" in str(problems)


def starting(node: FakeNode, *, takes: bool) -> tuple[ClusterState, Callable[[], None]]:
    """Return a state with a new pod that leaves by node b, and what has it wait to start."""
    node.health["b"] = replace(UP, takes_pods=takes)
    state = replace(ONLY_REMOTE, pods={**STATE.pods, ("toto", "two"): Pod("toto", "two", "a", ("198.51.100.3",))})

    def starts() -> None:
        node.source.waits, node.source.starting = True, ("198.51.100.3",)
        node.source.set(state)

    return state, starts


def test_a_pod_waits_until_its_holder_translates_it(tmp_path: Path) -> None:
    node = FakeNode(ONLY_REMOTE, tmp_path)
    state, starts = starting(node, takes=True)
    placed: list[bool] = []

    def look() -> None:
        placed.append(any(one is state for one in node.source.placed))

    node.run(
        2.0,
        (1.0, starts),
        (1.05, look),
        (1.06, partial(node.agent.on_translated, ["198.51.100.9"])),
        (1.08, look),
        (1.1, partial(node.agent.on_translated, ["198.51.100.3"])),
        (1.12, look),
    )
    assert placed == [False, False, True]
    assert node.prober.told == [{"192.0.2.12": {"198.51.100.3": "toto uid"}}], "once, and by whom it leaves"
    told = node.steps.index(next(step for step in node.steps if step[0] == "apply" and len(step[1].paths) == 2))
    assert node.steps[told][1].paths["198.51.100.3"] == Remote(1)


def test_a_holder_that_says_nothing_is_not_waited_for_for_long(tmp_path: Path) -> None:
    node = FakeNode(ONLY_REMOTE, tmp_path)
    _, starts = starting(node, takes=True)
    when: list[tuple[float, bool]] = []

    def placed(*, everywhere: bool = True) -> None:
        when.append((node.clock.now - 1000, everywhere))

    node.source.in_place = placed  # type: ignore[method-assign]
    node.run(2.0, (1.0, starts))
    assert node.prober.told[-1] == {}, "it is told no more"
    after = [(at, everywhere) for at, everywhere in when if at >= 1.0]
    assert after[0][0] == pytest.approx(1.0 + MOST_WAIT, abs=0.02)
    assert not after[0][1]


def test_a_holder_that_takes_no_pods_is_not_told(tmp_path: Path) -> None:
    """An older agent, or one on files: its pods start as before."""
    node = FakeNode(ONLY_REMOTE, tmp_path)
    state, starts = starting(node, takes=False)
    node.run(1.1, (1.0, starts))
    assert node.prober.told == []
    assert node.source.placed[-1] is state


def test_what_another_node_says_of_its_pods_is_taken_in_and_read_again_when_it_is_over(node: FakeNode) -> None:
    node.health["b"] = UP
    reads: list[float] = []
    read = node.source.read

    def counted() -> object:
        reads.append(node.clock.now - 1000)
        return read()

    node.source.read = counted  # type: ignore[method-assign, assignment]
    node.agent.plugin = runtime()
    pods = {"198.51.101.7": "toto uid"}
    node.run(
        13.0,
        (1.0, partial(node.agent.on_pods_told, "192.0.2.12", pods)),
        (1.1, partial(node.agent.on_pods_told, "192.0.2.99", pods)),
        (1.2, partial(node.agent.on_pods_told, HOST_IP, pods)),
    )
    assert node.source.heard == [("b", pods)], "nobody else is a node, and nobody speaks for us"
    assert [at for at in reads if at > 2] == [pytest.approx(11.5, abs=0.6)]
    assert node.agent.payload([])["takes"] is True


def test_without_a_container_runtime_that_tells_nothing_that_others_say_of_pods_is_heeded(node: FakeNode) -> None:
    node.agent.plugin = runtime(required=False)
    node.run(2.0, (1.0, partial(node.agent.on_pods_told, "192.0.2.12", {"198.51.101.7": "toto uid"})))
    assert node.source.heard == []
    assert "takes" not in node.agent.payload([])


def test_nobody_says_that_addresses_of_this_node_are_pods(node: FakeNode) -> None:
    node.agent.plugin = runtime()
    said = {OWN: "toto uid", HOST_IP: "toto uid", "198.51.101.7": "toto uid"}
    node.health["b"] = UP
    node.run(4.0, (3.0, partial(node.agent.on_pods_told, "192.0.2.12", said)))
    assert node.source.heard == [("b", {"198.51.101.7": "toto uid"})]


def test_a_flood_of_what_others_say_of_pods_waits_for_nobody(node: FakeNode) -> None:
    node.agent.plugin = runtime()

    def flood() -> None:
        for number in range(10 * MOST_TOLD):
            node.agent.on_pods_told("192.0.2.12", {"198.51.101.7": f"toto {number}"})

    node.run(4.0, (1.0, flood), (2.0, flood))
    assert len(node.source.heard) == 2 * MOST_TOLD
    assert len(node.agent._told_over) <= 2, "timers"


def runtime(*, required: bool = True) -> Plugin:
    """Return what hears of a container runtime, or would."""
    return Plugin(Path("/nowhere"), RuntimePods("a", lambda: None), lambda _text: None, required=required)


def test_what_is_not_in_place_is_not_said_to_be(node: FakeNode) -> None:
    """A pod that waits is let go when its rules are there, not when it was read."""
    said: list[int] = []
    changed = replace(STATE, pods={**STATE.pods, ("toto", "two"): Pod("toto", "two", "a", ("198.51.100.3",))})

    def fails() -> None:
        node.dataplane.error = PlatformError("nft says no")
        node.source.set(changed)

    def works() -> None:
        said.append(sum(state is changed for state in node.source.placed))
        node.dataplane.error = None

    node.run(12.0, (1.0, fails), (1.5, partial(node.source.set, changed)), (2.0, works))
    assert said == [0]
    assert node.source.placed[-1] is changed


def test_an_address_is_checked_then_added_then_translated_to_then_announced(node: FakeNode) -> None:
    node.run(2.0)
    steps = [step for step in node.steps if step[0] in ("check", "add", "announce")]
    assert steps == [("check", OWN), ("add", OWN), ("announce", OWN)]
    added = node.steps.index(("add", OWN))
    before = [step[1] for step in node.steps[:added] if step[0] == "apply"]
    assert all(state.translations == {} and OWN not in state.assigned for state in before)
    after = node.steps[added + 1 :]
    assert [step[0] for step in after[:2]] == ["apply", "announce"], "not called here before it is translated"
    assert after[0][1].assigned == {OWN}


def test_a_duplicate_is_not_added_and_tried_again(node: FakeNode) -> None:
    node.claims.duplicates[OWN] = "02:00:00:00:00:99 has it"
    node.run(3.0, (1.0, node.claims.duplicates.clear))
    assert node.names().count("check") >= 3
    assert node.names().count("add") == 1
    assert node.agent.local.duplicates == {}
    assert node.agent.known.ready


def test_a_gateway_that_goes_is_left_and_one_that_is_back_must_say_so(tmp_path: Path) -> None:
    node = FakeNode(ONLY_REMOTE, tmp_path)
    node.health["b"] = UP
    ways: dict[float, EgressPath] = {}

    def look(at: float) -> tuple[float, object]:
        def note() -> None:
            assert node.dataplane.applied is not None
            ways[at] = node.dataplane.applied.paths[POD]

        return at, note

    def goes() -> None:
        node.health["b"] = GONE

    def kernel_is_back() -> None:
        node.health["b"] = replace(UP, ready=False)

    def agent_is_back() -> None:
        node.health["b"] = UP

    plan = [look(0.95), (1.0, goes), look(1.5), (2.0, kernel_is_back), look(2.9), (3.0, agent_is_back), look(3.9)]
    node.run(4.0, *plan)  # type: ignore[arg-type]
    assert ways == {0.95: Remote(1), 1.5: Direct.NO_GATEWAY, 2.9: Direct.NO_GATEWAY, 3.9: Remote(1)}
    assert node.agent.gateways.failovers == 1


def test_what_an_earlier_agent_left_goes_on_from_the_first_moment(tmp_path: Path) -> None:
    node = FakeNode(ONLY_REMOTE, tmp_path)
    node.dataplane.tables, node.dataplane.slots = True, {"b": 7}
    node.dataplane.before = ((7,), (7,))
    node.health["b"] = UP
    node.run(2.0)
    assert {state.paths[POD] for state in applied(node)} == {Remote(7)}, "never dropped, never another slot"


def test_tables_that_others_change_are_replaced_at_once(node: FakeNode) -> None:
    node.run(2.5, (2.0, node.dataplane.change_by_others))
    names = node.names()
    forgotten = names.index("forget")
    assert names[forgotten + 1 :][:1] == ["apply"] or "apply" in names[forgotten + 1 :]
    assert node.agent.known.repairs == 1
    assert node.dataplane.applied is not None


def test_an_address_that_somebody_takes_away_is_checked_before_it_is_put_back(node: FakeNode) -> None:
    node.run(3.0, (2.0, lambda: node.dataplane.take_away(OWN)))
    assert [step for step in node.steps if step[0] in ("check", "add")] == [("check", OWN), ("add", OWN)] * 2
    assert node.agent.known.repairs == 1


def test_one_that_went_without_a_notice_is_found_by_looking(node: FakeNode) -> None:
    node.run(2.0 + 2 * CHECK_EVERY, (2.0, node.dataplane.on_link.clear))
    assert [step for step in node.steps if step[0] in ("check", "add")] == [("check", OWN), ("add", OWN)] * 2


def test_what_is_undone_of_the_network_is_put_back_at_once_without_touching_the_tables(node: FakeNode) -> None:
    node.run(2.1, (2.0, lambda: node.dataplane.undo("- rule 14700")))
    assert node.steps[-2:] == [("repair", "- rule 14700"), ("stop",)]
    assert node.agent.known.repairs == 1


def test_what_cannot_be_put_back_has_everything_replaced(node: FakeNode) -> None:
    def undo() -> None:
        node.dataplane.repair_error = PlatformError("no")
        node.dataplane.undo("- rule 14700")

    node.run(2.1, (2.0, undo))
    assert node.names()[-3:] == ["forget", "apply", "stop"]


@pytest.mark.parametrize("told", [False, True], ids=["at a check", "after a notice"])
def test_tables_that_cannot_be_read_are_made_anew(node: FakeNode, told: bool) -> None:
    def fail() -> None:
        node.dataplane.unknown = PlatformError("nft: no")
        if told:
            node.dataplane.change_by_others()

    reasons: list[list[str]] = []

    def heal() -> None:
        reasons.append(node.agent.reasons(0.0))
        node.dataplane.unknown = None

    node.run(3.0 + 2 * CHECK_EVERY, (1.5, fail), (2.0 if told else 2.0 + CHECK_EVERY, heal))
    assert reasons == [["whether the tables are in place is not known: nft: no"]]
    assert node.agent.reasons(0.0) == []
    assert node.names().count("forget") == 1
    at = node.names().index("forget")
    assert "apply" in node.names()[at:]


def test_while_nft_hangs_nothing_that_can_wait_asks_it(node: FakeNode) -> None:
    def hang() -> None:
        node.dataplane.error = ToolHangs(["nft"], "no end after 20 s", "")
        node.source.set(replace(STATE, namespaces={}))

    looks: list[int] = []
    later = [(2.0, hang), *((at, lambda: looks.append(node.dataplane.looks)) for at in (2.1, 2.0 + HANG_PAUSE))]
    node.run(20.0 + HANG_PAUSE * 2, *later)
    assert node.agent.known.failed_applies > HANG_PAUSE / CHECK_EVERY, "what matters is tried at each check"
    assert looks[0] == looks[1] == node.dataplane.looks > 0


def test_a_change_that_fails_makes_it_unready_and_is_tried_again(node: FakeNode) -> None:
    def fail() -> None:
        node.dataplane.error = PlatformError("nft: no")
        node.source.set(replace(STATE, namespaces={}))

    reasons: list[list[str]] = []

    def heal() -> None:
        reasons.append(node.agent.reasons(0.0))
        node.dataplane.error = None

    node.run(3.0 + CHECK_EVERY, (1.5, fail), (2.0, heal))
    assert reasons == [["nft: no"]]
    assert node.agent.reasons(0.0) == []
    assert node.agent.known.failed_applies >= 1
    assert "forget" in node.names()
    assert applied(node)[-1].translations == {}


def test_a_question_is_answered_after_what_is_known_is_applied(node: FakeNode) -> None:
    node.health["b"] = UP

    def both() -> None:
        node.control.ring()
        node.source.set(replace(STATE, pods={}))

    node.run(2.0, (1.5, both))
    (answer,) = node.control.answers
    assert answer["pods"] == 0


def test_a_drain_suppresses_arp_only_when_nobody_sends_and_nothing_is_left(node: FakeNode) -> None:
    node.health["b"] = UP

    def drain(agent: Agent) -> bool:
        agent.drain(100.0)
        return True

    def start() -> None:
        node.prober.senders, node.connections[POD] = ["192.0.2.12"], 1
        node.control.question = drain
        node.control.ring()

    states: list[frozenset[str]] = []

    def look() -> None:
        assert node.dataplane.applied is not None
        states.append(node.dataplane.applied.arp_suppressed)

    def nobody_sends() -> None:
        look()
        node.prober.senders = []

    def nothing_is_left() -> None:
        look()
        node.connections.clear()

    node.run(8.0, (1.5, start), (4.0, nobody_sends), (6.0, nothing_is_left))
    assert states == [frozenset()] * 2
    assert node.dataplane.applied is not None
    assert node.dataplane.applied.arp_suppressed == {OWN}
    assert node.dataplane.applied.paths[POD] == Remote(1), "the node's own pod leaves by the other gateway"


def test_another_host_ip_that_the_machine_has_starts_the_agent_again(node: FakeNode) -> None:
    moved = replace(STATE, nodes={**STATE.nodes, "a": replace(STATE.nodes["a"], host_ip="192.0.2.99")})
    node.run(2.0, (1.5, lambda: node.source.set(moved)))
    assert not node.agent.known.errors, "an address that the machine does not have is a problem of the objects"
    node.dataplane.on_link.add("192.0.2.99")
    with pytest.raises(TryAgainError, match=r"hostIP is 192\.0\.2\.99 now"):
        node.agent._require_host_ip()


def test_only_nodes_are_believed_that_they_send_here(node: FakeNode) -> None:
    node.run(1.0)
    assert set(node.prober.peers) == {HOST_IP, "192.0.2.12"}


def test_what_other_agents_are_told(node: FakeNode) -> None:
    assert node.agent.payload([]) == {"ready": False, "draining": False, "lacks": [], "tunnel": False}
    node.run(2.0)
    assert node.agent.payload([POD, "198.51.100.9"]) == {
        "ready": True,
        "draining": False,
        "lacks": [],
        "tunnel": True,
        "pods": {POD: OWN, "198.51.100.9": ""},
    }


def test_what_changes_after_a_quiet_moment_is_applied_at_once_and_a_burst_together(node: FakeNode) -> None:
    node.health["b"] = UP
    known: list[int] = []

    def pods(count: int) -> ClusterState:
        more = {("toto", f"n{n}"): Pod("toto", f"n{n}", "a", (f"198.51.100.{n}",)) for n in range(10, 10 + count)}
        return replace(STATE, pods={**STATE.pods, **more})

    def note() -> None:
        assert node.dataplane.applied is not None
        known.append(len(node.dataplane.applied.paths))

    burst: list[tuple[float, Callable[[], object]]] = [
        (2.5 + n / 1000, partial(node.source.set, pods(n))) for n in range(2, 102)
    ]
    quiet: list[tuple[float, Callable[[], object]]] = [(2.0, partial(node.source.set, pods(1))), (2.001, note)]
    node.run(4.0, *quiet, *burst, (2.5 + 0.101 + PAUSE_LEAST + 0.001, note))
    assert known == [2, 102]
    counts = [len(state.paths) for state in applied(node)]
    assert len({count for count in counts if count > 2}) <= 0.1 / PAUSE_LEAST + 2, "not one by one"


@pytest.mark.parametrize(("now", "told"), [((OWN,), False), (("192.0.2.55",), True)])
def test_a_former_holder_that_nothing_is_sent_to_is_no_problem(
    tmp_path: Path, now: tuple[str, ...], told: bool
) -> None:
    """It is not asked, so it never says that it knows, and may be taken out of the cluster."""
    nodes = {**STATE.nodes, "b": replace(STATE.nodes["b"], egress_ips=(REMOTE, "192.0.2.55"))}
    before = replace(ONLY_REMOTE, nodes={**nodes, "a": STATE.nodes["a"]})
    node = FakeNode(before, tmp_path)
    node.health["b"] = UP
    moved = replace(before, namespaces={"toto": NetNamespace("toto", 1, now)})
    node.run(3.0, (1.0, partial(node.source.set, moved)))
    assert node.agent.reassignment.unconfirmed == {POD: {"b"}}
    assert ("b" in node.prober.targets) is told
    assert ("until the agent there says" in str(node.agent.status()["problems"])) is told


def test_holders_are_not_down_for_ever_for_an_address_among_pods_that_is_gone(tmp_path: Path) -> None:
    """Nobody is asked by the way back when the node has no device of the container network any more."""
    node = FakeNode(ONLY_REMOTE, tmp_path)
    address, health = ["198.51.100.1"], list[str]()
    node.dataplane.address_among_pods = lambda: address[0]  # type: ignore[method-assign]

    def look(legs: dict[Leg, bool]) -> None:
        health.append(node.agent.gateways.health["b"].state.value)
        node.health["b"] = replace(UP, legs={Leg.TUNNEL: True, **legs})

    def gone() -> None:
        look({})
        address[0] = ""
        node.agent._make_way()

    node.health["b"] = replace(UP, legs={Leg.TUNNEL: True, Leg.BACK: True})
    node.run(6.0, (2.0, partial(look, {Leg.BACK: False})), (4.0, gone), (5.5, partial(look, {})))
    assert health == ["up", "down", "up"]
