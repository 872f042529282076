"""Egress IPs on a network that delays, loses and reorders (netem), and for SCTP: distributions' kernels have both."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lab import Host, Lab
from lab.addressing import parse
from tests.egressip.kernel.egress_cluster import (
    FIRST,
    FIRST6,
    SECOND,
    SECOND6,
    SERVICE,
    SERVICE6,
    WORLDS,
    EgressCluster,
    one_client,
    talking,
    two_holders,
)

pytestmark = [pytest.mark.root, pytest.mark.distribution_kernel]

#: Reordered: a part of the packets goes at once, ahead of those that wait.
REORDERING = "delay 8ms 3ms reorder 25% 50%"
LOSS = "loss 3% delay 2ms"


@pytest.fixture
def cluster(make_lab: Callable[..., Lab], tmp_path: Path) -> EgressCluster:
    return two_holders(make_lab(nodes=3, shape=WORLDS[0].shape), tmp_path / "state", WORLDS[0])


def disturb(host: Host, how: str) -> None:
    """Have netem at what a node sends to the LAN; see tc-netem(8)."""
    host.run(["tc", "qdisc", "replace", "dev", "eth0", "root", "netem", *how.split()])


def disturbed(host: Host) -> int:
    """Return how many packets netem has sent."""
    words = host.run(["tc", "-s", "qdisc", "show", "dev", "eth0"]).stdout.split()
    assert words[1] == "netem"
    return int(words[words.index("pkt") - 1])


def test_a_drain_loses_nothing_where_packets_overtake_each_other(cluster: EgressCluster) -> None:
    lab = cluster.lab
    client, first, second, node = one_client(cluster)
    for host in lab.nodes:
        disturb(host, REORDERING)
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as stream, lab.capture() as capture:
        stream.settimeout(3)
        stream.connect((SERVICE, 80))
        stream.sendall(b"hello")
        assert first in stream.recv(200).decode()
        with talking(partial(cluster.source_of, client, timeout=1)) as heard:
            time.sleep(0.3)
            cluster.ask(node, "drain")
            cluster.until(lambda: heard[-1][1] == second)
            time.sleep(0.3)
            stream.sendall(b"still here")
            assert stream.recv(200) == b"still here"
            cluster.ask(node, "undrain")
            cluster.until(lambda: heard[-1][1] == first)
        assert not capture.leaks(allowed={FIRST, SECOND})
    assert "" not in {text for _, text in heard}
    assert disturbed(node) > 20, "positive control"


def test_loss_takes_no_node_away_and_a_dead_one_is_noticed(cluster: EgressCluster) -> None:
    """3 % of all that a node sends, so 6 % of the answers are missed. Nobody is down for less than three rounds without
    an answer by any leg, or five without one by the same, or nine of those that are asked by seldom, and quickly after
    a miss.
    """
    lab = cluster.lab
    client, first, second, node = one_client(cluster)
    for host in lab.nodes:
        disturb(host, LOSS)
    with lab.capture() as capture:
        with talking(partial(cluster.source_of, client, timeout=0.1), every=0.05) as heard:
            time.sleep(3)
            assert {text for _, text in heard} - {""} == {first}, cluster.text()
            assert sum(1 for _, text in heard if text) > len(heard) * 0.7, "positive control: most arrive"
            cut = time.monotonic()
            lab.unplug(node)
            cluster.until(lambda: heard[-1][1] == second)
            assert time.monotonic() - cut < 3
            lab.plug(node)
            cluster.until(lambda: heard[-1][1] == first)
        assert not capture.leaks(allowed={FIRST, SECOND})


@pytest.mark.parametrize("version", [4, 6])
def test_associations_leave_with_the_egress_ip(cluster: EgressCluster, version: int) -> None:
    lab = cluster.lab
    service = SERVICE if version == 4 else SERVICE6
    first, second = (FIRST, SECOND) if version == 4 else (FIRST6, SECOND6)
    lab.echo(service, sctp=[3868])
    cluster.namespace("toto", FIRST, SECOND, FIRST6, SECOND6)
    cluster.holds(lab.nodes[1], FIRST, FIRST6)
    cluster.holds(lab.nodes[2], SECOND, SECOND6)
    client, local = cluster.pod("client", "toto", 0), cluster.pod("local", "toto", 1)
    assert lab.sctp(client, service, 3868).split()[0] == str(lab.nodes[0].addresses[version]), "positive control"
    cluster.start()
    cluster.settle()
    with lab.capture() as capture:
        assert lab.sctp(client, service, 3868).split()[0] in (first, second)
        assert lab.sctp(local, service, 3868).split()[0] in (first, second)
        # An association outlives a drain, as a TCP connection does.
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with client.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as association:
            association.settimeout(3)
            association.connect((service, 3868))
            association.sendall(b"hello")
            source = association.recv(200).decode().split()[0]
            node = lab.nodes[1 if source == first else 2]
            cluster.ask(node, "drain")
            cluster.until(lambda: bool(cluster.ask(node, "drain")["handed_over"]))
            association.sendall(b"still here")
            assert association.recv(200) == b"still here"
        other = second if source == first else first
        cluster.until(lambda: lab.sctp(client, service, 3868).split()[0] == other)
        assert capture.sources() >= {parse(source), parse(other)}
        assert not capture.leaks(allowed={first, second})
