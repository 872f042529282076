"""What is said about an EgressIP and a node, for each thing that can be the matter."""

from __future__ import annotations

from typing import Any

import pytest

from egress_router.egressip.assignment.decision import Evaluator
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.api_objects import ASSIGNABLE
from egress_router.egressip.source.groups import ApiObjects, Grouping, cluster_state
from egress_router.egressip.source.kubernetes_status import StatusMaker, moves, ready_of, selected, with_times
from egress_router.egressip.source.node_writer import NodeReport, announced, node_status

IP, OTHER = "192.0.2.45", "192.0.2.46"
NOW, THEN = "2026-02-02T00:00:00Z", "2026-01-01T00:00:00Z"


def meta(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uid": f"uid-{name}", "generation": 3, **more}


class Scene:
    """Two nodes of one subnet, and what each says that it holds."""

    def __init__(self, **held: list[str]) -> None:
        self.objects = ApiObjects({}, {}, {}, {}, {}, {})
        self.held = held
        self.offline: set[str] = set()
        for number, name in enumerate(("a", "b")):
            self.node(name, f"192.0.2.{11 + number}")

    def node(self, name: str, host_ip: str, *, assignable: bool = True, **status: Any) -> None:
        raw = {
            "metadata": meta(name),
            "status": {
                "hostIPs": [host_ip],
                "interfaceSubnets": ["192.0.2.0/24"],
                "heldIPs": self.held.get(name, []),
                **status,
            },
        }
        labels = {ASSIGNABLE: ""} if assignable else {}
        node = api_objects.egress_node(raw)
        self.objects.egress_nodes = {**self.objects.egress_nodes, node.uid: node}
        labelled = api_objects.labelled({"metadata": meta(name, labels=labels)})
        self.objects.nodes = {**self.objects.nodes, labelled.uid: labelled}

    def egress_ip(self, name: str, *ips: str, created: str = THEN, **spec: Any) -> api_objects.EgressIP:
        raw = {
            "metadata": meta(name, creationTimestamp=created),
            "spec": {"egressIPs": list(ips), "namespaceSelector": {"matchLabels": {"env": "x"}}, **spec},
        }
        value = api_objects.egress_ip(raw)
        self.objects.egress_ips = {**self.objects.egress_ips, value.uid: value}
        return value

    def pod(self, name: str) -> None:
        raw = {
            "metadata": meta(name, namespace="web"),
            "spec": {"nodeName": "a"},
            "status": {"podIP": "10.0.0.1"},
        }
        pod = api_objects.pod(raw)
        assert pod is not None
        self.objects.pods = {**self.objects.pods, pod.uid: pod}
        self.objects.namespaces = {"web": api_objects.labelled({"metadata": meta("web", labels={"env": "x"})})}

    def status(self, value: api_objects.EgressIP) -> dict[str, Any]:
        grouping = Grouping()
        state = cluster_state(self.objects, grouping.follow(self.objects), None)
        evaluator = Evaluator()
        evaluator.update(dict(state.namespaces), dict(state.nodes), frozenset(self.offline))
        return StatusMaker(self.objects, evaluator.decision(), selected(grouping, self.objects)).status(value)

    def ready(self, value: api_objects.EgressIP) -> tuple[str, str]:
        condition = ready_of(self.status(value))
        return condition["status"], condition["reason"]


def test_ready_is_what_the_holder_says() -> None:
    scene = Scene(a=[IP])
    value = scene.egress_ip("shop", IP)
    scene.pod("one")
    status = scene.status(value)
    assert status["items"] == [{"egressIP": IP, "node": "a"}]
    assert (status["nodes"], status["pods"], status["namespaces"]) == (["a"], 1, 1)
    assert (status["observedGeneration"], scene.ready(value)) == (3, ("True", "AllHeld"))
    assert {entry["observedGeneration"] for entry in status["conditions"]} == {3}
    decided = Scene()
    assert decided.ready(decided.egress_ip("shop", IP)) == ("False", "Pending"), "decided, and not there yet"


def test_some_are_held() -> None:
    scene = Scene(a=[IP])
    assert scene.ready(scene.egress_ip("shop", IP, OTHER)) == ("True", "SomeHeld")


@pytest.mark.parametrize("reason", ["DuplicateAddress", "NotInSubnet"])
def test_the_node_says_why_it_does_not_have_it(reason: str) -> None:
    scene = Scene()
    for name, host in (("a", "192.0.2.11"), ("b", "192.0.2.12")):
        scene.node(name, host, pending=[{"egressIP": IP, "reason": reason, "message": "it says"}])
    assert scene.ready(scene.egress_ip("shop", IP)) == ("False", reason)


def test_nobody_may_have_it() -> None:
    scene = Scene()
    chosen = scene.egress_ip("chosen", IP, egressNodeSelector={"matchLabels": {"zone": "z"}})
    assert scene.ready(chosen) == ("False", "NoNode")
    assert "egressNodeSelector" in ready_of(scene.status(chosen))["message"]
    for name, host in (("a", "192.0.2.11"), ("b", "192.0.2.12")):
        scene.node(name, host, assignable=False)
    plain = scene.egress_ip("plain", OTHER)
    assert scene.ready(plain) == ("False", "NoNode")
    assert ASSIGNABLE in ready_of(scene.status(plain))["message"]


def test_it_does_not_fit_or_nobody_is_left() -> None:
    scene = Scene()
    assert scene.ready(scene.egress_ip("far", "203.0.113.9")) == ("False", "NotInSubnet")
    value = scene.egress_ip("shop", IP)
    scene.offline = {"a", "b"}
    assert scene.ready(value) == ("False", "NoCapacity")


def test_conflicts() -> None:
    scene = Scene(a=[IP])
    own = scene.egress_ip("own", "192.0.2.12")
    assert scene.ready(own) == ("False", "Conflict")
    assert "own address of node b" in ready_of(scene.status(own))["message"]
    one, two = scene.egress_ip("one", IP), scene.egress_ip("two", IP, OTHER)
    assert scene.ready(one) == ("False", "Conflict")
    assert "EgressIP two lists it too" in ready_of(scene.status(one))["message"]
    assert scene.ready(two)[1] == "Conflict"


def test_pods_of_two() -> None:
    scene = Scene()
    older = scene.egress_ip("older", IP, created="2025-01-01T00:00:00Z")
    newer = scene.egress_ip("newer", OTHER)
    scene.pod("one")
    said = {}
    for value in (older, newer):
        status = scene.status(value)
        overlapping = next(entry for entry in status["conditions"] if entry["type"] == "Overlapping")
        said[value.name] = (overlapping["status"], overlapping["message"], status["pods"])
    assert said["older"] == ("True", "newer selects pod web/one too, which leaves with this one", 1)
    assert said["newer"] == ("True", "older selects pod web/one too, which leaves with that one", 0)


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    def entry(status: str, reason: str) -> dict[str, Any]:
        return {"type": "Ready", "status": status, "reason": reason}

    before = {"conditions": [{**entry("True", "AllHeld"), "lastTransitionTime": THEN}]}
    same = with_times({"conditions": [entry("True", "SomeHeld")]}, before, NOW)
    other = with_times({"conditions": [entry("False", "NoNode")]}, before, NOW)
    assert same["conditions"][0]["lastTransitionTime"] == THEN
    assert other["conditions"][0]["lastTransitionTime"] == NOW


def test_what_moved() -> None:
    before = {"items": [{"egressIP": IP, "node": "a"}, {"egressIP": OTHER, "node": "a"}]}
    after = {"items": [{"egressIP": IP, "node": "b"}, {"egressIP": "192.0.2.47", "node": "b"}]}
    assert moves(before, after) == [(IP, "a", "b"), (OTHER, "a", ""), ("192.0.2.47", "", "b")]
    assert moves({}, {}) == []


def test_what_a_node_says() -> None:
    report = NodeReport(
        True,
        host_ips=("192.0.2.11",),
        interface_subnets=("192.0.2.0/24",),
        held=frozenset({OTHER, IP}),
        pending={"192.0.2.47": ("DuplicateAddress", "02:00:00:00:00:01 answers")},
    )
    status = node_status(report)
    assert status["heldIPs"] == [IP, OTHER]
    assert status["pending"][0]["reason"] == "DuplicateAddress"
    assert status["conditions"][0]["status"] == "True"
    assert status["drain"] is None, "null takes the field away, by a merge patch"
    assert announced(report, IP)[:2] == ("True", "Held")
    assert announced(report, "192.0.2.47")[:2] == ("False", "DuplicateAddress")
    assert announced(report, "192.0.2.48")[:2] == ("False", "Pending")


def test_what_a_node_that_hands_over_says() -> None:
    report = NodeReport(True, held=frozenset({IP}), draining=True, connections=4)
    assert node_status(report)["drain"] == {"phase": "Draining", "connections": 4}
    assert announced(report, IP)[:2] == ("True", "Held"), "what is open goes on there"
    done = NodeReport(True, held=frozenset({IP}), draining=True, drained=True)
    assert node_status(done)["drain"] == {"phase": "HandedOver", "connections": 0}
    assert announced(done, IP)[:2] == ("False", "HandedOver")


def test_a_node_that_applies_nothing_says_so() -> None:
    status = node_status(NodeReport(False, ("nft is missing",)))
    assert status["conditions"][0]["status"] == "False"
    assert status["conditions"][0]["message"] == "nft is missing"
