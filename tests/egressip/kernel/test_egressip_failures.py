"""What nobody foresaw: a thread that fails is in the log and in /healthz, and is started again or ends the process."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from egress_router.egressip.node.state import PROBE_PORT
from lab import Host
from tests.egressip.kernel.egress_cluster import FIRST, WORLDS, EgressCluster, one_client
from tests.support.endpoint import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.parametrize("world", WORLDS[:1], ids=str)]

HEARD = "egress_router.net.icmp_probe:Prober._on_datagram"
PROBE = "egress_router.egressip.node.claims:Claimer._probe"
TRACEBACK = "RecursionError: injected"


def failing(cluster: EgressCluster, where: str, times: str) -> None:
    """Have the next processes fail there."""
    cluster.program = ("tests.support.failing", where, times)


def endpoint_of(node: Host, port: int = 9910) -> Endpoint:
    return Endpoint(node, str(node.addresses[4]), port)


def test_a_prober_that_fails_is_started_again_and_goes_on_finding_nodes_down(two_holders: EgressCluster) -> None:
    cluster, asking = two_holders, two_holders.lab.nodes[0]
    failing(cluster, HEARD, "2")
    cluster.start(asking)
    cluster.program = ("egress_router",)
    cluster.start(*cluster.lab.nodes[1:])
    cluster.pod("client", "toto", 0)
    cluster.settle()
    log = cluster.logs[asking.name].read_text()
    assert log.count("thread prober ended by an error that nobody foresaw") == 2
    assert TRACEBACK in log
    status, body = endpoint_of(asking).get("/healthz?verbose")
    assert status == 200
    assert "failed 2 times, the last time by RecursionError: injected" in body
    gone = cluster.lab.nodes[1]
    gone.ip("link set eth0 down")
    cluster.until(lambda: cluster.ask(asking)["holders"][gone.name] == "down")


def test_a_prober_that_keeps_failing_ends_the_agent(two_holders: EgressCluster) -> None:
    """The pod's address goes on leaving with its egress IP meanwhile: the kernel does that."""
    cluster, asking = two_holders, two_holders.lab.nodes[0]
    cluster.start(*cluster.lab.nodes[1:])
    failing(cluster, HEARD, "always")
    cluster.pod("client", "toto", 0)
    cluster.start(asking)
    assert cluster.agents[asking.name].wait(20) == 70
    log = cluster.logs[asking.name].read_text()
    assert log.count(TRACEBACK) >= 6
    assert "thread prober ended: RecursionError: injected; see the log" in log


def test_a_duplicate_check_that_fails_is_done_again(two_holders: EgressCluster) -> None:
    cluster, node = two_holders, two_holders.lab.nodes[1]
    failing(cluster, PROBE, "1")
    cluster.start(node)
    cluster.until(lambda: cluster.ask(node)["held"] == [FIRST])
    log = cluster.logs[node.name].read_text()
    assert "thread duplicate check ended by an error that nobody foresaw" in log
    assert TRACEBACK in log
    assert f"{FIRST} is not claimed: the check failed" in log


def test_a_controller_whose_prober_keeps_failing_ends(two_holders: EgressCluster) -> None:
    cluster, node = two_holders, two_holders.lab.nodes[0]
    cluster.start(*cluster.lab.nodes[1:])
    failing(cluster, HEARD, "always")
    controller = cluster.start_controller("controller", node)
    assert controller.wait(30) == 70
    log = cluster.logs["controller"].read_text()
    assert TRACEBACK in log
    assert "thread IPv4 prober ended: RecursionError: injected; see the log" in log


def test_no_datagram_harms_an_agent(two_holders: EgressCluster) -> None:
    """From a machine that is no node, to the port that is open to it."""
    cluster = two_holders
    client, _, other, holder = one_client(cluster)
    asking = cluster.lab.nodes[0]
    stranger = cluster.lab.machine("stranger", "192.0.2.99")
    data = [b"[" * 8000, b'{"ask":' * 1100, b'{"ask": 1' + b"0" * 5000 + b"}", b"\xff" * 100, b"", b'{"ask": {}}']
    data += [b'{"told": 1, "pods": [[]], "lacks": {"a": []}}', b'{"ask": 1, "uses": true, "pods": [{}]}']
    with stranger.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for node in cluster.lab.nodes:
            for datagram in data * 20:
                sender.sendto(datagram, (str(node.addresses[4]), PROBE_PORT))
        sender.settimeout(5)
        while sender.recv(8192) != b'{"told": 1, "ready": true, "draining": false, "lacks": [], "tunnel": true}':
            pass
    # Who has just started uses a holder when data gets there and back.
    cluster.until(lambda: cluster.ask(holder)["users"])
    assert cluster.ask(holder)["users"] == [str(asking.addresses[4])], "the stranger is no node"
    holder.ip("link set eth0 down")
    cluster.until(lambda: cluster.source_of(client) == other)
    assert "ended by an error" not in cluster.text()


def test_a_reader_of_the_log_that_stalls_stops_no_fail_over(two_holders: EgressCluster) -> None:
    cluster = two_holders
    client = cluster.pod("client", "toto", 0)
    cluster.start(*cluster.lab.nodes[1:])
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while os.write(write_end, b"x"):
            pass
    os.set_blocking(write_end, True)
    asking = cluster.lab.nodes[0]
    (cluster.state / f".{asking.name}.log").symlink_to(f"/proc/{os.getpid()}/fd/{write_end}")
    try:
        cluster.start(asking)
        # What a failure shows must not wait for the reader either.
        cluster.logs[asking.name] = Path(os.devnull)
        cluster.settle()
        first = cluster.source_of(client)
        holder = cluster.lab.nodes[1 if first == FIRST else 2]
        holder.ip("link set eth0 down")
        assert cluster.until(lambda: cluster.source_of(client) not in ("", first)) < 5
    finally:
        os.close(read_end)
        os.close(write_end)
