"""`egress-router node drain` as an operator sees it: it waits for connections, and nobody loses them before."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time

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
)

pytestmark = pytest.mark.root


class Scene:
    """A pod with connections by the second node in both families; the third can take over."""

    def __init__(self, cluster: EgressCluster) -> None:
        self.cluster, self.lab = cluster, cluster.lab
        self.node = cluster.lab.nodes[1]
        cluster.namespace("toto", FIRST, FIRST6)
        cluster.holds(self.node, FIRST, FIRST6)
        cluster.holds(cluster.lab.nodes[2])
        self.pod = cluster.pod("client", "toto", 0)
        cluster.start()
        cluster.settle()
        self.streams = [self._connect(service) for service in (SERVICE, SERVICE6)]
        cluster.namespace("toto", FIRST, FIRST6, SECOND, SECOND6)
        cluster.holds(cluster.lab.nodes[2], SECOND, SECOND6)
        cluster.until(lambda: len(cluster.ask(cluster.lab.nodes[0])["holders"]) == 2)
        cluster.settle()

    def _connect(self, service: str) -> socket.socket:
        stream = self.pod.socket(socket.AF_INET6 if ":" in service else socket.AF_INET, socket.SOCK_STREAM)
        stream.settimeout(2)
        stream.connect((service, 80))
        stream.sendall(b"hello")
        assert stream.recv(200).split()[0].decode() in (FIRST, FIRST6)
        return stream

    def forget_neighbours(self) -> None:
        """Have the gateway ask who has the addresses."""
        self.lab.gateway.ip("neigh flush dev eth0")

    def talk(self) -> None:
        self.forget_neighbours()
        for stream in self.streams:
            stream.sendall(b"still here")
            assert stream.recv(200) == b"still here"

    def answers(self) -> int:
        """Return for how many of the two addresses somebody answers."""
        gateway = self.lab.gateway
        self.forget_neighbours()
        gateway.run(["ping", "-6", "-c", "1", "-W", "1", FIRST6], check=False)
        six = "lladdr" in gateway.ip(f"-6 neigh show {FIRST6}")
        four = gateway.run(["arping", "-c", "2", "-w", "1", "-f", "-I", "eth0", FIRST], check=False).returncode == 0
        return four + six

    def drain(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "egress_router", "node", "drain", *options]
        return subprocess.Popen(
            [*command, "--socket", str(self.cluster.socket_of(self.node))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def counted(self) -> int:
        drain = self.cluster.ask(self.node)["drain"]
        return int(drain["connections"] or 0) if drain else 0

    def kill_agent(self) -> None:
        self.cluster.agents[self.node.name].kill()
        self.cluster.agents[self.node.name].wait()

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_a_drain_waits_for_the_last_connection(two_holders: EgressCluster) -> None:
    scene = Scene(two_holders)
    assert scene.answers() == 2, "positive control"
    process = scene.drain()
    scene.cluster.until(lambda: scene.counted() == 2)
    time.sleep(1)
    assert scene.answers() == 2
    scene.talk()
    assert process.poll() is None
    scene.close()
    code, out, err = finish(process)
    assert (code, out) == (0, "handed over\n")
    (line,) = err.splitlines()
    assert re.fullmatch(r"2 connections still use this node; waiting at most (299|300) s more", line)
    scene.cluster.until(lambda: scene.answers() == 0)


@pytest.mark.parametrize("world", WORLDS[:1], ids=str)
def test_a_grace_that_is_over_names_what_is_left(two_holders: EgressCluster) -> None:
    scene = Scene(two_holders)
    code, out, err = finish(scene.drain("--grace", "0"))
    assert (code, err) == (1, "")
    version4, version6 = (str(scene.pod.addresses[version]) for version in (4, 6))
    assert out.splitlines() == [
        "handed over; 2 connections remain, and break when this node stops:",
        f"  1 of pod toto/client ({version4})",
        f"  1 of pod toto/client ({version6})",
    ]
    scene.cluster.until(lambda: scene.answers() == 0)
    scene.cluster.ask(scene.node, "undrain")
    scene.cluster.until(lambda: scene.answers() == 2)
    scene.talk()
    scene.close()


@pytest.mark.parametrize("world", WORLDS[1:], ids=str)
def test_a_drain_is_the_agents_and_outlives_it(two_holders: EgressCluster) -> None:
    """Neither Ctrl-C of the client nor kill -9 of the agent ends it; undrain does, for the agent's successors too."""
    scene = Scene(two_holders)
    cluster, node = scene.cluster, scene.node
    process = scene.drain()
    cluster.until(lambda: scene.counted() == 2)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "goes on handing over" in err
    scene.kill_agent()
    cluster.start(node)
    cluster.until(lambda: scene.counted() == 2)
    scene.talk()
    process = scene.drain()
    assert process.stderr is not None
    assert "2 connections" in process.stderr.readline()
    scene.kill_agent()
    cluster.start(node)
    scene.talk()
    scene.close()
    code, out, err = finish(process)
    assert (code, out) == (0, "handed over\n"), err
    cluster.until(lambda: scene.answers() == 0)
    cluster.ask(node, "undrain")
    cluster.until(lambda: scene.answers() == 2)
    scene.kill_agent()
    cluster.start(node)
    cluster.settle()
    assert not cluster.ask(node)["draining"]
    assert scene.answers() == 2
