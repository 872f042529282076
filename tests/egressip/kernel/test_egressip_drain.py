"""A drain loses nothing, wherever the pod is: on a third node, on the node that drains, where an address comes back."""

from __future__ import annotations

import socket
from functools import partial

import pytest

from lab import Host
from tests.egressip.kernel.egress_cluster import (
    FIRST,
    FIRST6,
    SECOND,
    SECOND6,
    SERVICE,
    SERVICE6,
    WORLDS,
    EgressCluster,
)
from tests.egressip.kernel.questions import flows

pytestmark = pytest.mark.root

ADDRESSES = {1: {FIRST, FIRST6}, 2: {SECOND, SECOND6}}
EVERY = ADDRESSES[1] | ADDRESSES[2]


def three_pods(cluster: EgressCluster) -> list[Host]:
    """Start the agents of ``two_holders`` with two addresses per family; return a pod of toto on each node."""
    lab = cluster.lab
    cluster.namespace("toto", FIRST, SECOND, FIRST6, SECOND6)
    cluster.holds(lab.nodes[1], FIRST, FIRST6)
    cluster.holds(lab.nodes[2], SECOND, SECOND6)
    pods = [cluster.pod(f"client{number}", "toto", number) for number in range(3)]
    cluster.start()
    cluster.settle()
    return pods


def drained(cluster: EgressCluster, node: Host) -> bool:
    """Tell whether all that send anything to a node know that it drains."""
    others = [other for other in cluster.lab.nodes if other is not node]
    return all(cluster.ask(other)["holders"].get(node.name) == "draining" for other in others)


def test_late_answers_arrive(two_holders: EgressCluster) -> None:
    """What is asked before a drain or an undrain is answered after it; what is asked next leaves by the other way."""
    cluster = two_holders
    lab = cluster.lab
    pods = three_pods(cluster)
    with lab.capture() as capture, flows(lab, pods) as asking:
        for number, other in ((1, 2), (2, 1)):
            node = lab.nodes[number]
            own = [flow for flow in asking if flow.pod is pods[number]]
            first = {flow: flow.ask() for flow in asking}
            second = {flow: flow.ask() for flow in asking}
            assert {second[flow].source for flow in own} == ADDRESSES[number]
            cluster.ask(node, "drain")
            cluster.until(partial(drained, cluster, node))
            for flow in asking:
                flow.answer(first[flow])
            after = {flow: flow.ask() for flow in asking}
            assert {question.source for question in after.values()} == ADDRESSES[other]
            for flow in asking:
                flow.answer(second[flow])
                flow.answer(after[flow])
            pending = {flow: flow.ask() for flow in own}
            cluster.ask(node, "undrain")
            cluster.until(lambda node=node: "draining" not in cluster.ask(node)["holders"].values())  # type: ignore[misc]
            back = {flow: flow.ask() for flow in own}
            assert {question.source for question in back.values()} == ADDRESSES[number]
            for flow in own:
                flow.answer(pending[flow])
                flow.answer(back[flow])
            cluster.settle()
        assert capture.outgoing()
        assert not capture.leaks(allowed=EVERY)


def test_connections_stay_with_a_holder_that_drains(two_holders: EgressCluster) -> None:
    """Also when the agents of both ends are killed and start one after the other, and whatever node the pod is on."""
    cluster = two_holders
    lab = cluster.lab
    pods = three_pods(cluster)
    node = lab.nodes[1]
    streams = []
    for pod in pods:
        for version, service in ((socket.AF_INET, SERVICE), (socket.AF_INET6, SERVICE6)):
            stream = pod.socket(version, socket.SOCK_STREAM)
            stream.settimeout(2)
            stream.connect((service, 80))
            stream.sendall(b"hello")
            streams.append((stream, stream.recv(200).decode().split()[0]))
    assert {source for _, source in streams} & ADDRESSES[1]

    def talk() -> None:
        for stream, _ in streams:
            stream.sendall(b"still here")
            assert stream.recv(200) == b"still here"
        for flow in asking:
            flow.answer(flow.ask())

    with lab.capture() as capture, flows(lab, pods) as asking:
        talk()
        cluster.ask(node, "drain")
        cluster.until(partial(drained, cluster, node))
        talk()
        for killed in (lab.nodes[0], node):
            cluster.agents[killed.name].kill()
            cluster.agents[killed.name].wait()
        for started in (lab.nodes[0], node):
            cluster.start(started)
            cluster.until(lambda started=started: cluster.ask(started)["ready"])  # type: ignore[misc]
            talk()
        assert capture.outgoing()
        assert not capture.leaks(allowed=EVERY)
    for stream, _ in streams:
        stream.close()


def test_a_node_that_drains_is_the_last_resort(two_holders: EgressCluster) -> None:
    """The other holder dies after the hand-over is done: all goes on through the node that drains, until it is back."""
    cluster = two_holders
    lab = cluster.lab
    pods = three_pods(cluster)[:2]
    with lab.capture() as capture, flows(lab, pods) as asking:

        def leave_with(sources: set[str]) -> bool:
            return all(flow.source(0.1) in sources for flow in asking)

        cluster.ask(lab.nodes[1], "drain")
        cluster.until(lambda: bool(cluster.ask(lab.nodes[1])["drain"]["done"]))
        assert {flow.source(1.0) for flow in asking} == ADDRESSES[2]
        lab.unplug(lab.nodes[2])
        cluster.until(partial(leave_with, ADDRESSES[1]))
        for flow in asking:
            flow.answer(flow.ask())
        lab.plug(lab.nodes[2])
        cluster.until(partial(leave_with, ADDRESSES[2]))
        assert not capture.leaks(allowed=EVERY)


@pytest.mark.parametrize("world", WORLDS[:1], ids=str)
def test_the_only_holder_goes_on(two_holders: EgressCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """A drain of it says so, and loses nothing old or new."""
    from egress_router.cli.main import guarded, run

    cluster = two_holders
    lab = cluster.lab
    cluster.namespace("toto", FIRST, FIRST6)
    cluster.holds(lab.nodes[1], FIRST, FIRST6)
    cluster.holds(lab.nodes[2])
    pods = [cluster.pod(f"client{number}", "toto", number) for number in range(2)]
    cluster.start()
    cluster.settle()
    with lab.capture() as capture, flows(lab, pods) as asking:
        before = [(flow, flow.ask()) for flow in asking]
        drain = ["node", "drain", "--timeout", "1", "--socket", str(cluster.socket_of(lab.nodes[1]))]
        assert guarded(lambda: run(drain)) == 75
        said = capsys.readouterr().err
        assert "namespace toto has no other holder" in said
        assert f"still used by {lab.nodes[0].addresses[4]}, {lab.nodes[1].addresses[4]} after 1 s" in said
        for flow, question in before:
            flow.answer(question)
            flow.answer(flow.ask())
        assert cluster.source_of(pods[0]) == cluster.source_of(pods[1]) == FIRST
        assert not capture.leaks(allowed={FIRST, FIRST6})
