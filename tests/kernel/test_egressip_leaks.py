"""Nothing leaves with a wrong source, whatever happens at that moment."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from egress_router.lab import Host, Lab
from tests.kernel.egress_cluster import FIRST, FIRST6, SECOND, SERVICE, WORLDS, EgressCluster, World, talking

pytestmark = pytest.mark.root

Heard = list[tuple[float, str]]


@pytest.fixture
def cluster(make_lab: Callable[..., Lab], world: World, tmp_path: Path) -> EgressCluster:
    lab = make_lab(nodes=3, shape=world.shape)
    lab.echo(SERVICE, tcp=[80], udp=53)
    return EgressCluster(lab, tmp_path / "state", world)


def last_is(heard: Heard, text: str) -> bool:
    return bool(heard) and heard[-1][1] == text


def reset(pod: Host, sport: int) -> None:
    """Send a TCP RST that belongs to no connection."""
    source = pod.addresses[4].packed
    target = socket.inet_aton(SERVICE)
    head = struct.pack("!HHIIBBHHH", sport, 80, 1, 0, 5 << 4, 0x04, 0, 0, 0)
    pseudo = source + target + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head)) + head
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[18:]
    raw = pod.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.sendto(head, (SERVICE, 0))


def test_a_namespace_gets_and_loses_egress_ips_under_traffic(cluster: EgressCluster) -> None:
    lab = cluster.lab
    cluster.namespace("toto")
    cluster.holds(lab.nodes[1], FIRST)
    clients = [cluster.pod(f"client{n}", "toto", n) for n in (0, 1)]
    cluster.start()
    cluster.settle()
    keep = lab.nodes[0], lab.nodes[1]
    for client, node in zip(clients, keep, strict=True):
        own = str(node.addresses[4])
        with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
            flow.settimeout(0.2)
            flow.connect((SERVICE, 53))

            def ask(flow: socket.socket = flow) -> str:
                flow.send(b"x")
                return flow.recv(200).decode().split()[0]

            with talking(ask) as heard:
                cluster.until(partial(last_is, heard, own))
                cluster.namespace("toto", FIRST)
                cluster.until(partial(last_is, heard, FIRST), 15)
                with lab.capture() as capture:
                    time.sleep(0.5)
                    assert capture.outgoing()
                    assert not capture.leaks(allowed={FIRST})
                cluster.namespace("toto")
        cluster.until(lambda client=client, own=own: cluster.source_of(client) == own)  # type: ignore[misc]


def test_an_address_moves_under_traffic(cluster: EgressCluster) -> None:
    lab = cluster.lab
    cluster.namespace("toto", FIRST)
    cluster.holds(lab.nodes[1], FIRST)
    clients = [cluster.pod(f"client{n}", "toto", n) for n in range(3)]
    cluster.start()
    cluster.settle()
    with lab.capture() as capture:
        for holder, other in ((2, 1), (0, 2), (1, 0)):
            with talking(partial(cluster.source_of, clients[0], timeout=0.05)) as heard:
                cluster.holds(lab.nodes[other])
                cluster.holds(lab.nodes[holder], FIRST)
                cluster.until(lambda holder=holder: FIRST in cluster.ask(lab.nodes[holder])["held"])  # type: ignore[misc]
                assert not cluster.ask(lab.nodes[other])["held"]
                cluster.until(partial(last_is, heard, FIRST))
            for client in clients:
                cluster.until(lambda client=client: cluster.source_of(client, timeout=0.2) == FIRST)  # type: ignore[misc]
        assert capture.outgoing()
        assert not capture.leaks(allowed={FIRST})


def test_packets_of_no_connection_stay_inside(cluster: EgressCluster) -> None:
    """A RST out of nowhere is translated by nobody; it must not leave with the pod's address, here or at the holder."""
    lab = cluster.lab
    cluster.namespace("toto", FIRST)
    cluster.namespace("other")
    cluster.holds(lab.nodes[1], FIRST)
    stranger = cluster.pod("stranger", "other", 0)
    clients = [cluster.pod(f"client{n}", "toto", n) for n in (0, 1)]
    cluster.start()
    cluster.settle()
    with lab.capture() as capture:
        reset(stranger, 40000)
        cluster.until(lambda: bool(capture.outgoing()))
        capture.clear()
        for client in clients:
            for number in range(3):
                reset(client, 40000 + number)
        time.sleep(0.5)
        assert not capture.outgoing()
        for client in clients:
            assert cluster.source_of(client) == FIRST
        assert not capture.leaks(allowed={FIRST})


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_late_reply_turns_no_connection_round(cluster: EgressCluster, kind: socket.SocketKind) -> None:
    """A reply that comes after its connection was cut must not make the pod's next packet a reply, untranslated."""
    lab = cluster.lab
    cluster.namespace("toto", FIRST)
    cluster.holds(lab.nodes[1], FIRST)
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    with client.socket(socket.AF_INET, kind) as flow, lab.services.socket(socket.AF_INET, kind) as door:
        door.bind((SERVICE, 8000))
        if kind == socket.SOCK_STREAM:
            door.listen()
        flow.settimeout(2)
        door.settimeout(2)
        flow.connect((SERVICE, 8000))
        flow.send(b"question")
        if kind == socket.SOCK_STREAM:
            service, peer = door.accept()
            service.settimeout(2)
            assert service.recv(100) == b"question"
        else:
            service = door
            _, peer = service.recvfrom(100)
            service.connect(peer)
        assert peer[0] == FIRST
        service.send(b"one")
        assert flow.recv(100) == b"one"
        with lab.capture() as capture:
            lab.nodes[0].run(["conntrack", "-D", "--orig-src", str(client.addresses[4])])
            service.send(b"two")
            cluster.until(lambda: cluster.ask(lab.nodes[0])["dropped_packets"].get("late_reply", 0) > 0)
            flow.send(b"again")
            assert service.recv(100) == b"again"
            assert capture.outgoing()
            assert not capture.leaks(allowed={FIRST})
        service.close()


@pytest.mark.parametrize("world", WORLDS[1:], ids=str)
def test_a_conflict_drops_and_heals(cluster: EgressCluster) -> None:
    lab = cluster.lab
    cluster.namespace("toto", FIRST)
    cluster.namespace("rival")
    cluster.holds(lab.nodes[1], FIRST)
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    with lab.capture() as capture, talking(partial(cluster.source_of, client, timeout=0.05)) as heard:
        cluster.until(partial(last_is, heard, FIRST))
        cluster.namespace("rival", FIRST)
        cluster.until(partial(last_is, heard, ""))
        cluster.until(lambda: not cluster.ask(lab.nodes[1])["held"])
        time.sleep(0.3)
        assert heard[-1][1] == ""
        cluster.namespace("rival")
        cluster.until(partial(last_is, heard, FIRST))
        assert not capture.leaks(allowed={FIRST})


@pytest.mark.parametrize("world", WORLDS[:1], ids=str)
def test_an_address_that_another_machine_has_is_not_claimed(cluster: EgressCluster) -> None:
    lab = cluster.lab
    lab.machine("machine", FIRST)
    cluster.namespace("toto", FIRST, SECOND)
    cluster.holds(lab.nodes[1], FIRST)
    cluster.holds(lab.nodes[2], SECOND)
    cluster.start()
    cluster.until(lambda: any(FIRST in problem for problem in cluster.ask(lab.nodes[1])["problems"]))
    assert cluster.ask(lab.nodes[1])["held"] == []
    assert FIRST not in lab.nodes[1].ip("-4 addr show dev eth0")
    clients = [cluster.pod(f"client{n}", "toto", 0) for n in range(6)]
    for client in clients:
        cluster.until(lambda client=client: cluster.source_of(client, timeout=0.2) == SECOND)  # type: ignore[misc]


@pytest.mark.parametrize("world", WORLDS[1:], ids=str)
def test_what_somebody_takes_away_comes_back(cluster: EgressCluster) -> None:
    lab = cluster.lab
    node = lab.nodes[0]
    cluster.namespace("toto", FIRST)
    cluster.holds(lab.nodes[1], FIRST)
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    assert cluster.source_of(client) == FIRST
    node.nft("delete table inet egress_node")
    took = cluster.until(lambda: "inet egress_node" in node.run(["nft", "list", "tables"]).stdout)
    assert took < 2, "it is heard, not found out by the next look"
    assert cluster.source_of(client) == FIRST
    lab.nodes[1].ip(f"addr delete {FIRST}/32 dev eth0")
    cluster.until(lambda: FIRST in lab.nodes[1].ip("-4 addr show dev eth0"))
    cluster.until(lambda: cluster.source_of(client, timeout=0.2) == FIRST)


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
