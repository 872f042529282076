"""What agent and controller write to the Kubernetes API, and what becomes of the threads that do it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from egress_router.daemon import threads
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import ThreadFailed, Threads
from egress_router.egressip.api import ClusterState, Decision
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.source import api_objects, write_loop
from egress_router.egressip.source.api_objects import ASSIGNMENTS, EGRESS_IPS, EGRESS_NODES, STAYS
from egress_router.egressip.source.controller_writer import MOST_WRITES, ControllerWriter, keep_status
from egress_router.egressip.source.groups import ApiObjects, Grouping, cluster_state
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.kubernetes_record import KubernetesRecord
from egress_router.egressip.source.node_writer import NodeReport, NodeWriter
from egress_router.egressip.source.write_loop import AFTER_ERROR, WriteLoop
from egress_router.errors import PlatformError
from egress_router.kubernetes.client import ApiError, ApiUnavailable, Client
from egress_router.kubernetes.lease import CONFLICT, NOT_FOUND, KubernetesLease

IP = "192.0.2.45"


class Server:
    """Answers as a client does: writes what it was asked for down, and fails as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.failures: list[Exception] = []

    def request(self, method: str, path: str, body: Any = None, **_: object) -> dict[str, Any]:
        if self.failures:
            raise self.failures.pop(0)
        self.requests.append((method, path, body))
        return {"metadata": {"name": "x", "uid": "x"}}

    def take(self) -> list[tuple[str, str, Any]]:
        taken, self.requests = self.requests, []
        return [entry for entry in taken if "/events" not in entry[1]]


class Followed:
    """An informer that is told."""

    def __init__(self, **objects: Any) -> None:
        self.values = objects
        self.assumed: list[Mapping[str, Any]] = []

    def objects(self) -> Mapping[str, Any]:
        return self.values

    def assume(self, raw: Mapping[str, Any]) -> None:
        self.assumed.append(raw)


class Source:
    def __init__(self) -> None:
        self.objects = ApiObjects({}, {}, {}, {}, {}, {})
        self.egress_nodes, self.egress_ips, self.assignments = Followed(), Followed(), Followed()


class Election:
    identity = "one"

    def __init__(self) -> None:
        self.has_it = True
        self.transitions = 1
        self.annotations: dict[str, str] = {}

    def held(self) -> bool:
        return self.has_it


class Controller:
    """A controller's writer with two nodes and an EgressIP to write about."""

    def __init__(self, nodes: int = 2) -> None:
        self.server, self.source, self.lease = Server(), Source(), Election()
        self.logged: list[str] = []
        self.decision: Decision = decide(ClusterState())
        labelled = [
            api_objects.labelled({"metadata": {"name": f"n{number}", "uid": f"u{number}"}}) for number in range(nodes)
        ]
        self.source.objects.nodes = {node.uid: node for node in labelled}
        self.writer = ControllerWriter(
            cast(Client, self.server),
            cast(KubernetesSource, self.source),
            cast(KubernetesLease, self.lease),
            lambda: self.decision,
            self.logged.append,
        )

    def egress_ip(self, status: Mapping[str, Any] | None = None) -> None:
        value = api_objects.egress_ip(
            {
                "metadata": {
                    "name": "shop",
                    "uid": "shop",
                    "generation": 1,
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                },
                "spec": {"egressIPs": [IP], "namespaceSelector": {"matchLabels": {"env": "x"}}},
                "status": status or {},
            },
            keep_status,
        )
        objects = self.source.objects
        objects = ApiObjects({value.uid: value}, objects.egress_nodes, objects.assignments, {}, objects.nodes, {})
        self.source.objects = objects
        grouping = Grouping()
        self.decision = decide(cluster_state(objects, grouping.follow(objects), None))


def test_a_controller_makes_an_object_for_every_node_that_has_none() -> None:
    scene = Controller()
    assert scene.writer.turn() == 2
    assert [(method, path, body["metadata"]["name"]) for method, path, body in scene.server.take()] == [
        ("POST", EGRESS_NODES, "n0"),
        ("POST", EGRESS_NODES, "n1"),
    ]
    assert len(scene.source.egress_nodes.assumed) == 2
    assert scene.writer.turn() == 0, "nothing new is known"


def test_one_that_somebody_else_made_meanwhile_is_no_fault() -> None:
    scene = Controller()
    scene.server.failures = [ApiError(CONFLICT, "AlreadyExists", "it is there")]
    assert scene.writer.turn() == 2
    scene = Controller()
    scene.server.failures = [ApiError(500, "InternalError", "later")]
    with pytest.raises(ApiError):
        scene.writer.turn()


def test_no_more_is_written_at_once_than_the_server_should_have_to_bear() -> None:
    scene = Controller(nodes=MOST_WRITES + 3)
    assert scene.writer.turn() == MOST_WRITES
    scene.server.take()
    assert scene.writer.turn() > 0, "the rest is not forgotten"


def test_a_controller_writes_a_status_once() -> None:
    scene = Controller(nodes=0)
    scene.egress_ip()
    assert scene.writer.turn() == 1
    ((method, path, body),) = scene.server.take()
    assert (method, path, body["metadata"]) == ("PATCH", f"{EGRESS_IPS}/shop/status", {"uid": "shop"})
    scene.egress_ip({**body["status"], "left": "over"})
    assert scene.writer.turn() == 1
    assert scene.server.take()[0][2]["status"]["left"] is None, "a merge patch takes nothing away by itself"
    scene.egress_ip(body["status"])
    assert scene.writer.turn() == 0


def test_a_controller_without_the_lease_writes_nothing() -> None:
    scene = Controller()
    scene.lease.has_it = False
    assert scene.writer.turn() == 0
    assert scene.server.requests == []


class Node:
    """An agent's writer."""

    def __init__(self, **report: Any) -> None:
        self.server, self.source = Server(), Source()
        self.report = NodeReport(True, held=frozenset({IP}), **report)
        self.drains: list[bool] = []
        self.writer = NodeWriter(
            cast(Client, self.server),
            cast(KubernetesSource, self.source),
            "a",
            lambda: self.report,
            self.drains.append,
            lambda _: None,
        )
        self.own()

    def own(self, **spec: Any) -> None:
        raw = {"metadata": {"name": "a", "uid": "ua"}, "spec": spec}
        self.source.egress_nodes.values = {"ua": api_objects.egress_node(raw)}

    def assigned(self, **metadata: Any) -> None:
        raw = {
            "metadata": {"name": IP, "uid": "v", **metadata},
            "spec": {"egressIP": IP, "node": "a", "epoch": 1},
        }
        self.source.assignments.values = {"v": api_objects.assignment(raw)}


def test_an_agent_writes_what_it_does_once_and_not_too_often() -> None:
    node = Node()
    node.writer.turn(100.0)
    ((method, path, body),) = node.server.take()
    assert (method, path, body["status"]["heldIPs"]) == ("PATCH", f"{EGRESS_NODES}/a/status", [IP])
    node.writer.turn(110.0)
    assert node.server.take() == []
    node.report = NodeReport(True)
    node.writer.turn(120.0)
    node.report = NodeReport(True, held=frozenset({IP}))
    node.writer.turn(120.5)
    assert len(node.server.take()) == 1, "too early for the second"
    node.writer.turn(125.0)
    assert len(node.server.take()) == 1


def test_an_agent_says_that_it_has_what_it_was_given() -> None:
    node = Node()
    node.assigned()
    node.writer.turn(100.0)
    _, (_, path, body) = node.server.take()
    condition = body["status"]["conditions"][0]
    assert (path, condition["status"], condition["reason"]) == (f"{ASSIGNMENTS}/{IP}/status", "True", "Held")
    node.report = NodeReport(True, pending={IP: ("DuplicateAddress", "another machine has it")})
    node.server.failures = [ApiError(NOT_FOUND, "NotFound", "gone meanwhile")]
    node.writer.turn(100.5)
    assert node.server.take() == [], "an assignment that is gone is no fault"
    node.writer.turn(101.0)
    assert node.server.take()[0][2]["status"]["conditions"][0]["reason"] == "DuplicateAddress"


def test_an_agent_follows_the_drain_that_is_wanted() -> None:
    node = Node()
    node.own(drain=True)
    node.writer.turn(100.0)
    node.writer.turn(101.0)
    node.own()
    node.writer.turn(102.0)
    assert node.drains == [True, False]


def test_an_agent_whose_node_is_cordoned_hands_over_until_both_are_taken_back() -> None:
    node = Node()
    for number, (spec, noted) in enumerate(
        [
            ({}, {api_objects.CORDONED: "true"}),
            ({"drain": True}, {api_objects.CORDONED: "true"}),
            ({"drain": True}, {}),
            ({}, {api_objects.CORDONED: "false"}),
        ]
    ):
        raw = {"metadata": {"name": "a", "uid": "ua", "annotations": noted}, "spec": spec}
        node.source.egress_nodes.values = {"ua": api_objects.egress_node(raw)}
        node.writer.turn(100.0 + number)
    assert node.drains == [True, False]


def test_an_agent_that_starts_again_hears_that_the_drain_was_taken_back() -> None:
    node = Node(draining=True, drain_by_api=True)
    node.writer.turn(100.0)
    assert node.drains == [False]
    # One that an operator asked for on the node goes on.
    node = Node(draining=True)
    node.writer.turn(100.0)
    assert node.drains == []
    # And what is still wanted needs no second word.
    node = Node(draining=True, drain_by_api=True)
    node.own(drain=True)
    node.writer.turn(100.0)
    assert node.drains == []


class Waits:
    """Stands in for the wait between two turns: notes how long it would be, and ends after so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.seconds: list[float] = []
        self.most = most
        monkeypatch.setattr(write_loop, "pause", self)

    def __call__(self, stopping: threading.Event, seconds: float, beat: Callable[[], None]) -> bool:
        self.seconds.append(seconds)
        return len(self.seconds) > self.most


def test_trouble_with_the_server_is_logged_once_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception | None] = [
        ApiUnavailable("no route"),
        ApiUnavailable("no route"),
        ApiError(429, "TooManyRequests", "later", 7.0),
        None,
        ApiUnavailable("no route"),
    ]
    waits, logged = Waits(monkeypatch, len(answers)), list[str]()

    def turn(now: float) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    loop = Loop()
    writing = WriteLoop(turn, every=0.25, log=logged.append)
    writing.start(Threads(loop).start)
    writing.stop()
    assert waits.seconds == [0.25, AFTER_ERROR, AFTER_ERROR, 7.0, 0.25, AFTER_ERROR]
    assert [line.split(":")[1] for line in logged] == [
        " no route",
        " the API server says 429 TooManyRequests",
        " no route",
    ]
    assert not any("status" in line for line in loop.heartbeats.lines()), "it ended as it should"


def test_what_nobody_foresaw_is_seen_and_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "RESTART_SECONDS", 0.0)
    Waits(monkeypatch, 100)
    loop = Loop()

    def turn(now: float) -> None:
        raise RecursionError("too deep")

    writing = WriteLoop(turn, every=0.25, log=lambda _: None)
    writing.start(Threads(loop).start)
    with pytest.raises(ThreadFailed, match="thread status ended: RecursionError: too deep"):
        loop.run()
    assert loop.heartbeats.stuck() == ["status has ended: RecursionError: too deep"]


def test_a_standby_is_written_beside_the_holder_and_only_where_there_is_one() -> None:
    server, source = Server(), Source()
    selector = {"matchLabels": {"env": "shop"}}
    egress_ip = {"metadata": {"name": "shop"}, "spec": {"egressIPs": [IP], "namespaceSelector": selector}}
    source.egress_ips.values = {"s": api_objects.egress_ip(egress_ip)}
    record = KubernetesRecord(cast(Client, server), cast(KubernetesSource, source), cast(KubernetesLease, Election()))

    def stands(**spec: str) -> None:
        metadata = {"name": IP, "uid": "v", "resourceVersion": "7", "annotations": {STAYS: "true"}}
        raw = {"metadata": metadata, "spec": {"egressIP": IP, "epoch": 0, **spec}}
        source.assignments.values = {"v": api_objects.assignment(raw)}

    def written(node: str, standby: str = "") -> list[dict[str, object]]:
        record.write({node: [IP]}, [], {IP: standby} if standby else {})
        specs = []
        for _, _, body in server.take():
            assert ("annotations" in body["metadata"]) == (
                body["spec"]["node"] != "a" and "name" not in body["metadata"]
            )
            specs.append({name: value for name, value in body["spec"].items() if name not in ("epoch", "egressIP")})
        return specs

    assert written("a", standby="b") == [{"node": "a", "standby": "b"}]
    stands(node="a")
    assert written("a") == [], "a definition of a former version is not asked to have the field"
    assert written("a", standby="b") == [{"node": "a", "standby": "b"}]
    stands(node="a", standby="b")
    assert written("a", standby="b") == []
    assert written("a", standby="c") == [{"node": "a", "standby": "c"}]
    assert written("b", standby="c") == [{"node": "b", "standby": "c"}], "and it stays no more"
    assert written("a") == [{"node": "a", "standby": None}]


def test_a_definition_without_standbys_is_told_of_when_all_else_is_written() -> None:
    asked: list[str] = []

    class Former(Server):
        def request(self, method: str, path: str, body: Any = None, **_: object) -> dict[str, Any]:
            spec = {name: value for name, value in body["spec"].items() if name != "standby"}
            asked.append(f"{spec['egressIP']} {spec['node']}")
            return {"metadata": {"name": IP, "uid": "v"}, "spec": spec}

    record = KubernetesRecord(
        cast(Client, Former()), cast(KubernetesSource, Source()), cast(KubernetesLease, Election())
    )
    record.write({"a": [IP]}, [])
    asked.clear()
    with pytest.raises(PlatformError, match=r"no spec\.standby; apply the CRDs"):
        record.write({"a": [IP, "192.0.2.46"], "b": ["192.0.2.47"]}, ["c"], {IP: "b"})
    assert asked == [f"{IP} a", "192.0.2.46 a", "192.0.2.47 b"], "holders are what counts"


def test_an_address_that_moves_stays_no_more() -> None:
    server, source = Server(), Source()
    raw = {
        "metadata": {"name": IP, "uid": "v", "resourceVersion": "7", "annotations": {STAYS: "true"}},
        "spec": {"egressIP": IP, "node": "a", "epoch": 0},
    }
    given = api_objects.assignment(raw)
    assert given.stays
    source.assignments.values = {"v": given}
    selector = {"matchLabels": {"env": "shop"}}
    egress_ip = {"metadata": {"name": "shop"}, "spec": {"egressIPs": [IP], "namespaceSelector": selector}}
    source.egress_ips.values = {"s": api_objects.egress_ip(egress_ip)}
    lease = Election()
    record = KubernetesRecord(cast(Client, server), cast(KubernetesSource, source), cast(KubernetesLease, lease))
    record.write({"a": [IP]}, [])
    assert server.take() == []
    record.write({"b": [IP]}, [])
    ((method, path, body),) = server.take()
    assert (method, path) == ("PATCH", f"{ASSIGNMENTS}/{IP}")
    assert body["metadata"] == {"resourceVersion": "7", "annotations": {STAYS: None}}
    assert body["spec"]["node"] == "b"
