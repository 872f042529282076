"""Flows that never pause while objects change: in the end they have the new address, and never a wrong one."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import pytest

from lab import Host
from tests.egressip.kernel.egress_cluster import talking
from tests.egressip.kernel.egress_scene import RIVAL, SERVICES, THIRD, TOTO, UDP, Flow, Scene, ip_packet, send_raw, udp

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Flows:
    """A flow per family, of a pod and its namespace's object."""

    scene: Scene
    pod: Host
    name: str
    node: int
    by_version: Mapping[int, Flow]

    def get(self, sources: Mapping[int, str]) -> None:
        """Wait until each family has its source."""
        for version, flow in self.by_version.items():
            self.scene.cluster.until(partial(flow.has, sources[version]))

    def get_nothing(self) -> None:
        """Wait until nothing comes back."""
        for flow in self.by_version.values():
            self.scene.cluster.until(lambda flow=flow: flow.source() == "")  # type: ignore[misc]

    def get_the_nodes(self) -> dict[int, str]:
        """Return the addresses of the pod's node."""
        return {version: self.scene.node_address(self.node, version) for version in self.by_version}


@pytest.fixture
def flows(scene: Scene) -> Iterator[list[Flows]]:
    """Flows of two pods of toto: through a holder, and on the holder."""
    places = ((scene.client, "toto", 0), (scene.local, "local", 1))
    made = [Flows(scene, *place, {version: Flow(place[0], version) for version in SERVICES}) for place in places]
    for flow in made:
        flow.get(TOTO)
    yield made
    for pod, name, node in places:
        scene.cluster.tell(pod, name, "toto", node)
    scene.put_back()
    scene.cluster.settle()


def test_addresses_move_by_hand(scene: Scene, flows: list[Flows]) -> None:
    """Both nodes go on holding others, so no holder comes or goes."""
    cluster, nodes = scene.cluster, scene.lab.nodes
    with scene.leaving_with(*TOTO.values()):
        cluster.holds(nodes[1], *THIRD.values())
        cluster.holds(nodes[2], *RIVAL.values(), *TOTO.values())
        cluster.until(lambda: set(TOTO.values()) <= set(cluster.ask(nodes[2])["held"]))
        for flow in flows:
            flow.get(TOTO)


def test_namespaces_swap_their_addresses(scene: Scene, flows: list[Flows]) -> None:
    """In one step: both namespaces stand in one file. The holder keeps all addresses, only the translation changes."""
    cluster = scene.cluster
    other = Flow(scene.third, 4)
    for name in ("toto", "third"):
        (cluster.state / f"NetNamespace-{name}.json").unlink()
    cluster.together({"toto": [*TOTO.values()], "third": [*THIRD.values()]})
    try:
        for flow in flows:
            flow.get(TOTO)
        cluster.until(partial(other.has, THIRD[4]))
        with scene.leaving_with(*TOTO.values(), *THIRD.values()):
            cluster.together({"toto": [*THIRD.values()], "third": [*TOTO.values()]})
            for flow in flows:
                flow.get(THIRD)
            cluster.until(partial(other.has, TOTO[4]))
    finally:
        (cluster.state / "together.json").unlink()


def test_a_namespace_has_egress_ips_no_more_and_again(scene: Scene, flows: list[Flows]) -> None:
    """While its holders stay holders for others; a connection inside the cluster does not notice."""
    cluster, lab = scene.cluster, scene.lab
    address = str(scene.plain.addresses[4])
    server = closing(lab.echo(address, tcp=8080, host=scene.plain))
    with server, scene.client.socket(socket.AF_INET, socket.SOCK_STREAM) as inside:
        inside.settimeout(2)
        inside.connect((address, 8080))
        cluster.namespace("toto")
        for flow in flows:
            flow.get(flow.get_the_nodes())
        cluster.namespace("toto", *TOTO.values())
        for flow in flows:
            flow.get(TOTO)
        inside.sendall(b"hello")
        assert inside.recv(100)


def test_an_address_goes_to_a_pod_of_another_namespace(scene: Scene, flows: list[Flows]) -> None:
    """The new pod may even use the ports of the old one."""
    cluster = scene.cluster
    own = [address for flow in flows for address in flow.get_the_nodes().values()]
    with scene.leaving_with(*TOTO.values(), *THIRD.values(), *RIVAL.values(), *own):
        for namespace, sources in (("third", THIRD), ("rival", RIVAL), ("plain", None), ("toto", TOTO)):
            for flow in flows:
                (cluster.state / f"Pod-{flow.name}.json").unlink()
                flow.get_nothing()
                before = {version: len(one.heard) for version, one in flow.by_version.items()}
                cluster.tell(flow.pod, flow.name, namespace, flow.node)
                wanted = sources or flow.get_the_nodes()
                flow.get(wanted)
                for version, one in flow.by_version.items():
                    assert set(one.heard[before[version] :]) == {wanted[version]}


def test_a_holder_that_has_not_heard_of_the_change_is_not_used(scene: Scene, flows: list[Flows]) -> None:
    """Its kernel goes on translating the address as it was, to what is another namespace's egress IP for it by now."""
    cluster, node = scene.cluster, scene.lab.nodes[1]
    flow, told = flows[0], cluster.ask(scene.lab.nodes[0])["pods"]
    cluster.agents[node.name].kill()
    cluster.agents[node.name].wait()
    try:
        with scene.lab.capture() as capture:
            (cluster.state / "Pod-toto.json").unlink()
            flow.get_nothing()
            capture.clear()
            cluster.tell(scene.client, "toto", "third", 0)
            cluster.until(lambda: cluster.ask(scene.lab.nodes[0])["pods"] == told)
            flow.get_nothing()
            assert not capture.outgoing()
            assert f"not sent to {node.name}" in str(cluster.ask(scene.lab.nodes[0])["problems"])
            assert cluster.source_of(scene.third) == THIRD[4], "whose address was nobody's before"
    finally:
        cluster.start(node)
    flow.get(THIRD)


def test_late_replies_to_an_address_that_is_nobodys(scene: Scene, flows: list[Flows]) -> None:
    """They must not make the next packets from there replies, which nothing translates or drops."""
    cluster, lab = scene.cluster, scene.lab
    (cluster.state / "Pod-toto.json").unlink()
    flows[0].get_nothing()
    with lab.capture() as capture:
        for version, flow in flows[0].by_version.items():
            pod = scene.client.addresses[version]
            lab.gateway.ip(f"-{version} route add {pod} via {scene.node_address(0, version)}")
            before = scene.dropped(0, "late_reply")
            send_raw(lab.services, ip_packet(SERVICES[version], str(pod), UDP, udp(53, flow.port)), version)
            cluster.until(lambda n=before: scene.dropped(0, "late_reply") > n)  # type: ignore[misc]
            assert flow.source() == ""
            lab.gateway.ip(f"-{version} route del {pod}")
        assert not capture.outgoing()
    cluster.tell(scene.client, "toto", "toto", 0)
    flows[0].get(TOTO)


def test_an_address_that_two_pods_have(scene: Scene, flows: list[Flows]) -> None:
    """While the object of the old one lingers, nobody knows whose packets these are."""
    cluster = scene.cluster
    try:
        cluster.tell(scene.client, "heir", "plain", 0)
        flows[0].get_nothing()
        assert "plain/heir and toto/toto" in str(cluster.ask(scene.lab.nodes[0])["problems"])
    finally:
        (cluster.state / "Pod-heir.json").unlink()
    flows[0].get(TOTO)
    for version, flow in flows[0].by_version.items():
        assert set(flow.heard) == {TOTO[version]}


def test_a_conflict_drops_and_heals(scene: Scene, flows: list[Flows]) -> None:
    cluster = scene.cluster
    with scene.leaving_with(*TOTO.values()):
        cluster.namespace("plain", *TOTO.values())
        for flow in flows:
            flow.get_nothing()
        cluster.until(lambda: not set(TOTO.values()) & set(cluster.ask(scene.lab.nodes[1])["held"]))
        for flow in flows:
            flow.get_nothing()
        cluster.namespace("plain")
        for flow in flows:
            flow.get(TOTO)


def test_an_address_that_another_machine_has_is_not_claimed(scene: Scene, flows: list[Flows]) -> None:
    """The namespace goes on with its other address."""
    cluster, node = scene.cluster, scene.lab.nodes[2]
    taken = [str(address) for address in scene.stranger.addresses.values()]
    cluster.namespace("toto", *taken, *TOTO.values())
    cluster.holds(node, *RIVAL.values(), *taken)
    for address in taken:
        cluster.until(lambda a=address: any(a in problem for problem in cluster.ask(node)["problems"]))  # type: ignore[misc]
    assert not set(taken) & set(cluster.ask(node)["held"])
    shown = node.ip("addr show dev eth0")
    assert RIVAL[4] in shown, "positive control"
    assert not any(f" {address}/" in shown for address in taken)
    for flow in flows:
        flow.get(TOTO)


def test_addresses_that_somebody_takes_away_come_back(scene: Scene, flows: list[Flows]) -> None:
    """They are looked at every five seconds."""
    node = scene.lab.nodes[1]
    for address, length in ((TOTO[4], 32), (TOTO[6], 128)):
        node.ip(f"addr delete {address}/{length} dev eth0")
    for address in TOTO.values():
        scene.cluster.until(lambda a=address: a in node.ip("addr show dev eth0"))  # type: ignore[misc]
    for flow in flows:
        flow.get(TOTO)


def test_a_namespace_is_deleted_and_made_again(scene: Scene, flows: list[Flows]) -> None:
    """With another netid, as OpenShift gives it."""
    cluster = scene.cluster
    with scene.leaving_with(*TOTO.values()):
        (cluster.state / "NetNamespace-toto.json").unlink()
        for flow in flows:
            flow.get_nothing()
        cluster.put("NetNamespace", "toto", netid=99, egressIPs=[*TOTO.values()])
        for flow in flows:
            flow.get(TOTO)


@pytest.mark.parametrize("version", [4, 6])
def test_new_pods_never_leak(scene: Scene, version: int) -> None:
    """Pods that send from their first moment, before and after their object is there."""
    cluster = scene.cluster
    with scene.leaving_with(TOTO[version]):
        for node in range(3):
            name = f"new{version}{node}"
            pod = scene.lab.pod(name, node=node)
            asking = partial(cluster.source_of, pod, SERVICES[version], timeout=0.03)
            with talking(asking, every=0.0) as heard:
                cluster.until(lambda heard=heard: len(heard) > 1)  # type: ignore[misc]
                cluster.tell(pod, name, "toto", node)
                cluster.until(lambda heard=heard: heard[-1][1] != "")  # type: ignore[misc]


@pytest.mark.parametrize("told", [True, False])
def test_pods_in_the_nodes_network(scene: Scene, told: bool) -> None:
    """The node's address is theirs, and the node's own traffic goes on, also where the object does not say so."""
    cluster = scene.cluster
    node: Host = scene.lab.nodes[0]
    cluster.put(
        "Pod",
        "host",
        metadata={"namespace": "toto"},
        spec={"nodeName": node.name, **({"hostNetwork": True} if told else {})},
        status={"podIPs": [{"ip": str(address)} for address in node.addresses.values()]},
    )
    cluster.tell(scene.plain, "plain", "toto", 0)
    for version, service in SERVICES.items():
        cluster.until(lambda v=version, s=service: cluster.source_of(scene.plain, s, 0.1) == TOTO[v])  # type: ignore[misc]
        assert cluster.source_of(node, service) == str(node.addresses[version])
    (cluster.state / "Pod-host.json").unlink()
    cluster.tell(scene.plain, "plain", "plain", 0)
    for version, service in SERVICES.items():
        own = scene.node_address(0, version)
        cluster.until(lambda own=own, s=service: cluster.source_of(scene.plain, s, 0.1) == own)  # type: ignore[misc]
