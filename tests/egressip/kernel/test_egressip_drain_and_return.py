"""Hand-overs: drain, return, and connections that go on; large packets through the tunnel."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.egressip.kernel.egress_cluster import (
    FIRST,
    FIRST6,
    SECOND,
    SECOND6,
    SERVICE,
    SERVICE6,
    WORLDS,
    EgressCluster,
    World,
    one_client,
    talking,
)

pytestmark = pytest.mark.root


def test_drain_loses_nothing(two_holders: EgressCluster) -> None:
    """Neither a question nor an open TCP connection."""
    from egress_router.cli.main import guarded, run

    cluster = two_holders
    lab = cluster.lab
    client, first, second, node = one_client(cluster)
    with client.socket(2, 1) as stream, lab.capture() as capture:
        stream.settimeout(2)
        stream.connect((SERVICE, 80))
        stream.sendall(b"hello")
        assert stream.recv(200)
        with talking(partial(cluster.source_of, client, timeout=0.5)) as heard:
            time.sleep(0.2)
            drain = ["node", "drain", "--grace", "0", "--socket", str(cluster.socket_of(node))]
            assert guarded(lambda: run(drain)) == 1, "a connection is left"
            cluster.until(lambda: heard[-1][1] == second)
            time.sleep(0.3)
            stream.sendall(b"still here")
            assert stream.recv(200) == b"still here"
            assert guarded(lambda: run(["node", "undrain", "--socket", str(cluster.socket_of(node))])) == 0
            cluster.until(lambda: heard[-1][1] == first)
        stream.sendall(b"and again")
        assert stream.recv(200) == b"and again"
        assert not capture.leaks(allowed={FIRST, SECOND})
    assert "" not in {text for _, text in heard}


@pytest.mark.parametrize("world", WORLDS[1:], ids=str)
def test_a_drained_node_is_silent(two_holders: EgressCluster) -> None:
    cluster = two_holders
    lab = cluster.lab
    cluster.namespace("toto", FIRST, SECOND, FIRST6, SECOND6)
    cluster.holds(lab.nodes[1], FIRST, FIRST6)
    cluster.holds(lab.nodes[2], SECOND, SECOND6)
    cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()

    def answers6() -> bool:
        lab.gateway.ip("-6 neigh flush dev eth0")
        lab.gateway.run(["ping", "-6", "-c", "1", "-W", "1", FIRST6], check=False)
        return "lladdr" in lab.gateway.ip(f"-6 neigh show {FIRST6}")

    assert answers6(), "positive control"
    asking = ["arping", "-c", "3", "-w", "1", "-f", "-I", "eth0", FIRST]
    assert lab.gateway.run(asking, check=False).returncode == 0, "positive control"
    cluster.ask(lab.nodes[1], "drain")
    cluster.until(lambda: bool(cluster.ask(lab.nodes[1], "drain")["handed_over"]))
    cluster.until(lambda: lab.gateway.run(asking, check=False).returncode != 0)
    assert not answers6()
    cluster.ask(lab.nodes[1], "undrain")
    cluster.until(lambda: lab.gateway.run(asking, check=False).returncode == 0)


def test_the_return_of_a_node_cuts_no_connection(two_holders: EgressCluster) -> None:
    cluster = two_holders
    lab = cluster.lab
    client, first, second, node = one_client(cluster)
    lab.unplug(node)
    cluster.until(lambda: cluster.source_of(client, timeout=0.2) == second)
    with client.socket(2, 1) as stream:
        stream.settimeout(2)
        stream.connect((SERVICE, 80))
        stream.sendall(b"hello")
        assert second in stream.recv(200).decode()
        lab.plug(node)
        cluster.until(lambda: cluster.source_of(client, timeout=0.2) == first)
        for number in range(5):
            stream.sendall(b"%d" % number)
            assert stream.recv(200) == b"%d" % number
            time.sleep(0.05)


@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
def test_large_transfers_go_through_the_tunnel(two_holders: EgressCluster, world: World, service: str) -> None:
    cluster = two_holders
    lab = cluster.lab
    cluster.namespace("toto", FIRST, "2001:db8:2::45")
    cluster.holds(lab.nodes[1], FIRST, "2001:db8:2::45")
    cluster.holds(lab.nodes[2])
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    payload = bytes(range(256)) * 4096
    with lab.capture() as capture, client.socket(10 if ":" in service else 2, 1) as stream:
        stream.settimeout(5)
        stream.connect((service, 80))
        stream.sendall(b"hello")
        assert stream.recv(200)
        got = b""
        for start in range(0, len(payload), 65536):
            stream.sendall(payload[start : start + 65536])
        while len(got) < len(payload):
            got += stream.recv(65536)
        assert got == payload
    offered = {packet.mss for packet in capture.packets if packet.mss and packet.dport == 80}
    overhead = (50 if world.underlay == 4 else 70) + (60 if ":" in service else 40)
    assert offered == {1500 - overhead}
