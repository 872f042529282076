"""Destinations that pods with egress IPs reach directly: which packets leave with which source, and what a change does
to what is open. A destination beside them is the positive control of every capture.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_address

import pytest

from egress_router.egressip.node.status import status_text
from lab import Capture, Host, NoReply
from tests.egressip.kernel.egress_cluster import talking
from tests.egressip.kernel.egress_scene import (
    FAMILY,
    SERVICES,
    TCP,
    THIRD,
    TOTO,
    UDP,
    Scene,
    ip_packet,
    send_raw,
    udp,
)
from tests.egressip.kernel.test_egressip_local_addresses import segment

pytestmark = [pytest.mark.root, pytest.mark.parametrize("version", [4, 6])]

#: What is excepted, a destination in it, and one just outside of it.
NETWORKS = {4: "203.0.113.64/27", 6: "2001:db8:113::4:0/112"}
DIRECT = {4: "203.0.113.70", 6: "2001:db8:113::4:7"}
BESIDE = {4: "203.0.113.96", 6: "2001:db8:113::5:0"}


@pytest.fixture
def served(scene: Scene, version: int) -> Iterator[Scene]:
    """The scene with something that answers at these destinations; nothing is excepted before and after."""
    with ExitStack() as stack:
        for address in (DIRECT[version], BESIDE[version]):
            stack.callback(scene.lab.echo(address, tcp=[80], udp=53).close)
        try:
            yield scene
        finally:
            scene.put_back()
            scene.cluster.settle()


def except_(scene: Scene, *networks: str) -> None:
    """Change what toto reaches directly, and wait until its pods' nodes have it."""
    scene.cluster.change("NetNamespace", "toto", **{"except": list(networks)})
    for node in scene.lab.nodes[:2]:
        scene.cluster.until(
            lambda node=node: scene.cluster.ask(node)["namespaces"]["toto"]["except"] == list(networks)  # type: ignore[misc]
        )


def pods(scene: Scene, version: int) -> list[tuple[Host, str]]:
    """The pods of toto, one elsewhere than the holder and one of the holder's own, with their node's address."""
    return [(scene.client, scene.node_address(0, version)), (scene.local, scene.node_address(1, version))]


def sources(capture: Capture, destination: str) -> set[str]:
    """Return the sources of all packets that have left for a destination."""
    wanted = ip_address(destination)
    return {str(packet.src) for packet in capture.outgoing() if packet.dst == wanted}


def ask_all(scene: Scene, pod: Host, target: str) -> set[str]:
    """Return the sources that a destination sees of a pod's TCP and UDP."""
    tcp, datagram = scene.lab.tcp(pod, target, 80), scene.lab.udp(pod, target, 53)
    return {tcp.split()[0], datagram.split()[0]}


def ping(pod: Host, target: str) -> None:
    assert pod.run(["ping", "-n", "-c", "1", "-W", "2", target]).returncode == 0


def test_what_is_excepted_leaves_as_without_egress_ips(served: Scene, version: int) -> None:
    scene, lab = served, served.lab
    for pod, _ in pods(scene, version):
        assert ask_all(scene, pod, DIRECT[version]) == {TOTO[version]}, "positive control"
    except_(scene, NETWORKS[version])
    for pod, own in pods(scene, version):
        with lab.capture() as capture:
            assert ask_all(scene, pod, DIRECT[version]) == {own}
            ping(pod, DIRECT[version])
            for target in (BESIDE[version], SERVICES[version]):
                assert ask_all(scene, pod, target) == {TOTO[version]}
                ping(pod, target)
            assert sources(capture, DIRECT[version]) == {own}
            assert sources(capture, BESIDE[version]) == sources(capture, SERVICES[version]) == {TOTO[version]}
    assert ask_all(scene, scene.third, DIRECT[version]) == {THIRD[version]}, "another namespace, on the same nodes"
    assert ask_all(scene, scene.plain, DIRECT[version]) == {scene.node_address(0, version)}
    with pytest.raises(NoReply):
        lab.udp(scene.nobody, DIRECT[version], 53, timeout=0.3)
    except_(scene)
    for pod, _ in pods(scene, version):
        assert ask_all(scene, pod, DIRECT[version]) == {TOTO[version]}


def test_what_is_excepted_needs_no_holder(served: Scene, version: int) -> None:
    scene = served
    except_(scene, NETWORKS[version])
    scene.cluster.holds(scene.lab.nodes[1], *THIRD.values())
    scene.cluster.until(lambda: scene.cluster.ask(scene.lab.nodes[0])["namespaces"]["toto"]["disposition"] == "drop")
    scene.cluster.until(lambda: not set(TOTO.values()) & set(scene.cluster.ask(scene.lab.nodes[1])["held"]))
    with scene.lab.capture() as capture:
        for pod, own in pods(scene, version):
            assert ask_all(scene, pod, DIRECT[version]) == {own}
            for target in (BESIDE[version], SERVICES[version]):
                with pytest.raises(NoReply):
                    scene.lab.udp(pod, target, 53, timeout=0.3)
        assert sources(capture, DIRECT[version]) == {own for _, own in pods(scene, version)}, "positive control"
        assert not sources(capture, BESIDE[version]) | sources(capture, SERVICES[version])


@pytest.mark.parametrize("everything", ["0.0.0.0/0", "::/0"])
def test_a_family_as_a_whole(served: Scene, version: int, everything: str) -> None:
    """Egress IPs of one family, and the other directly."""
    scene = served
    except_(scene, everything)
    meant = (":" in everything) == (version == 6)
    for pod, own in pods(scene, version):
        assert ask_all(scene, pod, SERVICES[version]) == {own if meant else TOTO[version]}


def test_packets_of_no_connection_leave_only_for_what_is_excepted(served: Scene, version: int) -> None:
    """A late RST is translated by nobody: it leaves as that of any other pod does, or not at all."""
    scene = served
    except_(scene, NETWORKS[version])
    for number, (pod, _) in enumerate(pods(scene, version)):
        own = str(pod.addresses[version])
        dropped = scene.dropped(number, "no_connection")
        with scene.lab.capture() as capture:
            for target in (BESIDE[version], DIRECT[version]):
                send_raw(pod, ip_packet(own, target, TCP, segment(40000, 80, 1, 0x04)), version)
            scene.cluster.until(lambda capture=capture: bool(sources(capture, DIRECT[version])))  # type: ignore[misc]
            scene.cluster.until(lambda number=number, dropped=dropped: scene.dropped(number, "no_connection") > dropped)  # type: ignore[misc]
            assert not sources(capture, BESIDE[version])


class Stream:
    """A TCP connection to the echo service, on which each answer tells the source that it has."""

    def __init__(self, pod: Host, target: str, version: int) -> None:
        self.socket = pod.socket(FAMILY[version], socket.SOCK_STREAM)
        self.socket.settimeout(3)
        self.socket.connect((target, 80))

    def source(self) -> str:
        self.socket.sendall(b"x")
        return self.socket.recv(300).decode().split()[0]


@contextmanager
def stream(pod: Host, target: str, version: int) -> Iterator[Stream]:
    opened = Stream(pod, target, version)
    try:
        yield opened
    finally:
        opened.socket.close()


def test_connections_keep_their_egress_ip_when_their_destination_is_excepted(served: Scene, version: int) -> None:
    scene = served
    for pod, own in pods(scene, version):
        with stream(pod, DIRECT[version], version) as old, stream(pod, BESIDE[version], version) as other:
            assert old.source() == other.source() == TOTO[version]
            except_(scene, NETWORKS[version])
            assert scene.lab.tcp(pod, DIRECT[version], 80).split()[0] == own, "a new one is direct"
            old.socket.sendall(b"still here?")
            assert old.socket.recv(300)
            other.socket.sendall(b"still here?")
            assert other.socket.recv(300)
            with scene.lab.capture() as capture:
                old.socket.sendall(b"and now?")
                assert old.socket.recv(300)
                assert sources(capture, DIRECT[version]) == {TOTO[version]}
            except_(scene)
            old.socket.sendall(b"it never was another's")
            assert old.socket.recv(300)


def test_direct_connections_end_when_their_destination_is_no_longer_excepted(served: Scene, version: int) -> None:
    """They cannot go on with another source. Those to other destinations, and those that an egress IP has, do."""
    scene = served
    except_(scene, NETWORKS[version])
    for number, (pod, own) in enumerate(pods(scene, version)):
        with stream(pod, DIRECT[version], version) as direct, stream(pod, BESIDE[version], version) as other:
            assert (direct.source(), other.source()) == (own, TOTO[version])
            listed = ["conntrack", "-f", f"ipv{version}", "-L", "-p", "tcp", "--orig-dst", DIRECT[version]]
            assert "ESTABLISHED" in scene.lab.nodes[number].run(listed).stdout, "positive control"
            with scene.lab.capture() as capture:
                except_(scene)
                scene.cluster.until(
                    lambda number=number, listed=listed: "ESTABLISHED" not in scene.lab.nodes[number].run(listed).stdout  # type: ignore[misc]
                )
                direct.socket.sendall(b"still here?")
                with pytest.raises((ConnectionResetError, TimeoutError)):
                    direct.socket.recv(300)
                assert sources(capture, DIRECT[version]) <= {own, TOTO[version]}
                other.socket.sendall(b"still here?")
                assert other.socket.recv(300)
            assert scene.lab.tcp(pod, DIRECT[version], 80).split()[0] == TOTO[version]
        except_(scene, NETWORKS[version])


def test_datagrams_follow_at_once_and_nothing_else_changes(served: Scene, version: int) -> None:
    """What is excepted changes ten times under traffic. A flow to a destination in it has one source or the other, and
    no packet for another destination ever leaves without the egress IP.
    """
    scene = served

    def flow(pod: Host, target: str) -> Callable[[], str]:
        opened = pod.socket(FAMILY[version], socket.SOCK_DGRAM)
        stack.callback(opened.close)
        opened.settimeout(0.1)
        opened.connect((target, 53))

        def ask() -> str:
            opened.send(b"x")
            return opened.recv(300).decode().split()[0]

        return ask

    with ExitStack() as stack:
        capture = stack.enter_context(scene.lab.capture())
        direct = [stack.enter_context(talking(flow(pod, DIRECT[version]))) for pod, _ in pods(scene, version)]
        for pod, _ in pods(scene, version):
            for target in (BESIDE[version], SERVICES[version]):
                stack.enter_context(talking(flow(pod, target)))
                stack.enter_context(talking(partial(scene.lab.tcp, pod, target, 80, "x", 0.2), 0.05))
        for _ in range(5):
            except_(scene, NETWORKS[version])
            for heard, (_, own) in zip(direct, pods(scene, version), strict=True):
                scene.cluster.until(lambda heard=heard, own=own: heard[-1][1] == own)  # type: ignore[misc]
            except_(scene)
            for heard in direct:
                scene.cluster.until(lambda heard=heard: heard[-1][1] == TOTO[version])  # type: ignore[misc]
        time.sleep(0.2)
        allowed = {TOTO[version], *(own for _, own in pods(scene, version))}
        assert sources(capture, DIRECT[version]) == allowed, "positive control: each was seen"
        assert sources(capture, BESIDE[version]) == sources(capture, SERVICES[version]) == {TOTO[version]}


def test_an_agent_that_starts_again_leaves_it_alone(served: Scene, version: int) -> None:
    """Nothing of it is in a memory; what was left is found right, and direct connections go on."""
    scene, cluster = served, served.cluster
    except_(scene, NETWORKS[version], "203.0.113.96/28" if version == 4 else "2001:db8:113::6:0/112")
    node = scene.lab.nodes[0]
    with stream(scene.client, DIRECT[version], version) as open_one:
        assert open_one.source() == scene.node_address(0, version)
        generation = json.loads(node.run(["nft", "-j", "list", "tables"]).stdout)["nftables"]
        cluster.agents[node.name].kill()
        cluster.agents[node.name].wait()
        cluster.start(node)
        cluster.settle()
        assert json.loads(node.run(["nft", "-j", "list", "tables"]).stdout)["nftables"] == generation, (
            "its tables have the handles they had: they were not replaced"
        )
        open_one.socket.sendall(b"still here?")
        assert open_one.socket.recv(300)
        assert ask_all(scene, scene.client, DIRECT[version]) == {scene.node_address(0, version)}
        assert ask_all(scene, scene.client, SERVICES[version]) == {TOTO[version]}


def test_with_the_nodes_address_while_there_is_no_other(served: Scene, version: int) -> None:
    """`whenUnavailable: NodeIP`, under traffic: each packet has the egress IP or its node's address, and what is open
    ends when the other one is right.
    """
    scene, cluster = served, served.cluster
    holder = scene.lab.nodes[1]
    cluster.change("NetNamespace", "toto", whenUnavailable="NodeIP")
    for node in scene.lab.nodes[:2]:
        cluster.until(lambda node=node: cluster.ask(node)["namespaces"]["toto"]["node_ip"])  # type: ignore[misc]
    allowed = {TOTO[version], *(own for _, own in pods(scene, version))}
    target = SERVICES[version]
    with scene.lab.capture() as capture, ExitStack() as stack:
        for pod, _ in pods(scene, version):
            stack.enter_context(talking(partial(scene.lab.tcp, pod, target, 80, "x", 0.2), 0.05))
            stack.enter_context(talking(partial(cluster.source_of, pod, target, 0.1)))
        for pod, _ in pods(scene, version):
            assert ask_all(scene, pod, target) == {TOTO[version]}, "as long as there is one"
        with_egress_ip = [stack.enter_context(stream(pod, target, version)) for pod, _ in pods(scene, version)]
        assert {opened.source() for opened in with_egress_ip} == {TOTO[version]}
        cluster.holds(holder, *THIRD.values())
        for pod, own in pods(scene, version):
            cluster.until(lambda pod=pod, own=own: cluster.source_of(pod, target, 0.2) == own)  # type: ignore[misc]
            assert ask_all(scene, pod, target) == {own}
        assert "leaves with the address of the pod's node" in status_text(cluster.ask(scene.lab.nodes[0]))
        for opened in with_egress_ip:
            cluster.until(lambda opened=opened: ends(opened), 2)  # type: ignore[misc]
        direct = [stack.enter_context(stream(pod, target, version)) for pod, _ in pods(scene, version)]
        assert [opened.source() for opened in direct] == [own for _, own in pods(scene, version)]
        cluster.holds(holder, *TOTO.values(), *THIRD.values())
        for pod, _ in pods(scene, version):
            cluster.until(lambda pod=pod: cluster.source_of(pod, target, 0.2) == TOTO[version])  # type: ignore[misc]
        for opened in direct:
            cluster.until(lambda opened=opened: ends(opened), 2)  # type: ignore[misc]
        assert ask_all(scene, scene.third, target) == {THIRD[version]}
        assert sources(capture, target) <= {*allowed, THIRD[version]}
        assert sources(capture, target) >= allowed, "positive control: each was seen"


def ends(opened: Stream) -> bool:
    """Tell whether a connection that cannot go on ends, instead of going on with any source."""
    try:
        opened.socket.sendall(b"still here?")
        return not opened.socket.recv(300)
    except (ConnectionError, TimeoutError):
        return True


def test_a_forged_source_is_not_excepted(served: Scene, version: int) -> None:
    """A source that is no pod's of this node gets out nowhere, also not to what some pod reaches directly."""
    scene = served
    except_(scene, NETWORKS[version])
    elsewhere = str(scene.local.addresses[version])
    with scene.lab.capture() as capture:
        send_raw(scene.client, ip_packet(elsewhere, DIRECT[version], UDP, udp()), version)
        ping(scene.client, DIRECT[version])
        assert sources(capture, DIRECT[version]) == {scene.node_address(0, version)}, "of the ping alone"
