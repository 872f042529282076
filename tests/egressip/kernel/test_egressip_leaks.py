"""Nothing leaves with a wrong source, whatever happens at that moment."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.egressip.kernel.egress_cluster import FIRST, FIRST6, SECOND, EgressCluster, World, talking
from tests.egressip.kernel.egress_scene import FAMILY, SERVICES, TCP, TOTO, ip_packet, send_raw

pytestmark = pytest.mark.root

Heard = list[tuple[float, str]]


@pytest.fixture
def cluster(make_lab: Callable[..., Lab], world: World, tmp_path: Path) -> EgressCluster:
    lab = make_lab(nodes=3, shape=world.shape)
    for service in SERVICES.values():
        lab.echo(service, tcp=[80], udp=53)
    return EgressCluster(lab, tmp_path / "state", world)


@pytest.fixture
def version(world: World) -> int:
    """The IP version of what pods send: that of the tunnel."""
    return world.underlay


@pytest.fixture
def first(version: int) -> str:
    """The egress IP of toto."""
    return TOTO[version]


def last_is(heard: Heard, text: str) -> bool:
    return bool(heard) and heard[-1][1] == text


def reset(pod: Host, sport: int, version: int) -> None:
    """Send a TCP RST that belongs to no connection."""
    head = struct.pack("!HHIIBBHHH", sport, 80, 1, 0, 5 << 4, 0x04, 0, 0, 0)
    send_raw(pod, ip_packet(str(pod.addresses[version]), SERVICES[version], TCP, head), version)


def test_a_namespace_gets_and_loses_egress_ips_under_traffic(cluster: EgressCluster, version: int, first: str) -> None:
    lab = cluster.lab
    service = SERVICES[version]
    cluster.namespace("toto")
    cluster.holds(lab.nodes[1], first)
    clients = [cluster.pod(f"client{n}", "toto", n) for n in (0, 1)]
    cluster.start()
    cluster.settle()
    keep = lab.nodes[0], lab.nodes[1]
    for client, node in zip(clients, keep, strict=True):
        own = str(node.addresses[version])
        with client.socket(FAMILY[version], socket.SOCK_DGRAM) as flow:
            flow.settimeout(0.2)
            flow.connect((service, 53))

            def ask(flow: socket.socket = flow) -> str:
                flow.send(b"x")
                return flow.recv(200).decode().split()[0]

            with talking(ask) as heard:
                cluster.until(partial(last_is, heard, own))
                cluster.namespace("toto", first)
                cluster.until(partial(last_is, heard, first), 15)
                with lab.capture() as capture:
                    time.sleep(0.5)
                    assert capture.outgoing()
                    assert not capture.leaks(allowed={first})
                cluster.namespace("toto")
                cluster.until(partial(last_is, heard, own))


def test_an_address_moves_under_traffic(cluster: EgressCluster, version: int, first: str) -> None:
    lab = cluster.lab
    service = SERVICES[version]
    cluster.namespace("toto", first)
    cluster.holds(lab.nodes[1], first)
    clients = [cluster.pod(f"client{n}", "toto", n) for n in range(3)]
    cluster.start()
    cluster.settle()
    with lab.capture() as capture:
        for holder, other in ((2, 1), (0, 2), (1, 0)):
            with talking(partial(cluster.source_of, clients[0], service, timeout=0.05)) as heard:
                cluster.holds(lab.nodes[other])
                cluster.holds(lab.nodes[holder], first)
                cluster.until(lambda holder=holder: first in cluster.ask(lab.nodes[holder])["held"])  # type: ignore[misc]
                assert not cluster.ask(lab.nodes[other])["held"]
                cluster.until(partial(last_is, heard, first))
            for client in clients:
                cluster.until(lambda client=client: cluster.source_of(client, service, 0.2) == first)  # type: ignore[misc]
        assert capture.outgoing()
        assert not capture.leaks(allowed={first})


def test_packets_of_no_connection_stay_inside(cluster: EgressCluster, version: int, first: str) -> None:
    """A RST out of nowhere is translated by nobody; it must not leave with the pod's address, here or at the holder."""
    lab = cluster.lab
    cluster.namespace("toto", first)
    cluster.namespace("other")
    cluster.holds(lab.nodes[1], first)
    stranger = cluster.pod("stranger", "other", 0)
    clients = [cluster.pod(f"client{n}", "toto", n) for n in (0, 1)]
    cluster.start()
    cluster.settle()
    with lab.capture() as capture:
        reset(stranger, 40000, version)
        cluster.until(lambda: bool(capture.outgoing()))
        capture.clear()
        for client in clients:
            for number in range(3):
                reset(client, 40000 + number, version)
        time.sleep(0.5)
        assert not capture.outgoing()
        for client in clients:
            assert cluster.source_of(client, SERVICES[version]) == first
        assert not capture.leaks(allowed={first})


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_late_reply_turns_no_connection_round(
    cluster: EgressCluster, kind: socket.SocketKind, version: int, first: str
) -> None:
    """A reply that comes after its connection was cut must not make the pod's next packet a reply, untranslated."""
    lab = cluster.lab
    family = FAMILY[version]
    cluster.namespace("toto", first)
    cluster.holds(lab.nodes[1], first)
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    with client.socket(family, kind) as flow, lab.services.socket(family, kind) as door:
        door.bind((SERVICES[version], 8000))
        if kind == socket.SOCK_STREAM:
            door.listen()
        flow.settimeout(2)
        door.settimeout(2)
        flow.connect((SERVICES[version], 8000))
        flow.send(b"question")
        if kind == socket.SOCK_STREAM:
            service, peer = door.accept()
            service.settimeout(2)
            assert service.recv(100) == b"question"
        else:
            service = door
            _, peer = service.recvfrom(100)
            service.connect(peer[:2])
        assert peer[0] == first
        service.send(b"one")
        assert flow.recv(100) == b"one"
        with lab.capture() as capture:
            lab.nodes[0].run(["conntrack", "-D", "-f", f"ipv{version}", "--orig-src", str(client.addresses[version])])
            service.send(b"two")
            cluster.until(lambda: cluster.ask(lab.nodes[0])["dropped_packets"].get("late_reply", 0) > 0)
            flow.send(b"again")
            assert service.recv(100) == b"again"
            assert capture.outgoing()
            assert not capture.leaks(allowed={first})
        service.close()


def test_leftovers_go_and_foreign_things_stay(cluster: EgressCluster) -> None:
    """An agent that starts cleans what an earlier one of another version has left, and nothing else."""
    lab = cluster.lab
    node = lab.nodes[1]
    cluster.namespace("toto", FIRST, FIRST6, SECOND)
    cluster.holds(node, FIRST, FIRST6)
    cluster.holds(lab.nodes[2], SECOND)
    cluster.start()
    cluster.settle()
    assert FIRST6 in node.ip("-6 addr show dev eth0")
    node.add_addresses(["192.0.2.77", "2001:db8:2::77"])
    node.nft("table inet foreign { chain c { type filter hook forward priority 5; }\n}\n")
    node.ip("rule add fwmark 0x7 lookup 77 priority 91")
    node.ip("route add blackhole default table 77")
    cluster.agents[node.name].kill()
    cluster.agents[node.name].wait()
    node.nft("delete table inet egress_node\n")
    node.nft("table inet egress_node { set of_old { type ipv4_addr; }\nchain of_old { accept\n}\n}\n")
    node.ip("link delete egressvx0")
    node.ip("link add egressvx0 type vxlan id 7 dstport 4788 local 192.0.2.12 nolearning")
    node.ip("rule add fwmark 0x70000/0xff0000 lookup 147009 priority 80 protocol 147")
    node.ip("route add unreachable default table 147009 protocol 147")
    cluster.holds(node)
    cluster.holds(lab.nodes[2])
    cluster.start(node)
    cluster.until(lambda: FIRST not in node.ip("-4 addr show dev eth0"))
    cluster.until(lambda: FIRST6 not in node.ip("-6 addr show dev eth0"))
    assert "2001:db8:2::77" in node.ip("-6 addr show dev eth0")
    cluster.until(lambda: "proto 147" not in node.ip("rule show"))
    cluster.until(lambda: "proto 147" not in node.ip("route show table all"))
    assert "of_old" not in node.run(["nft", "list", "table", "inet", "egress_node"]).stdout
    assert "id 4790" in node.ip("-d link show egressvx0")
    assert "192.0.2.77" in node.ip("-4 addr show dev eth0")
    assert "fwmark 0x7 lookup 77" in node.ip("rule show")
    assert "blackhole default" in node.ip("route show table 77")
    assert "table inet foreign" in node.run(["nft", "list", "tables"]).stdout
