"""A drain, and a shutdown, of a node with egress IPs that were assigned automatically: they go to another node."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from egress_router.cli.main import guarded, run
from egress_router.egressip.controller.leader_election import RECORD_FILE
from egress_router.egressip.node.claims import ANNOUNCE_EVERY, ANNOUNCEMENTS
from lab import Host, Lab
from tests.egressip.kernel.egress_cluster import (
    FIRST,
    FIRST6,
    SECOND,
    SERVICE,
    WORLDS,
    EgressCluster,
    World,
    one_client,
    talking,
)

pytestmark = pytest.mark.root

QUICK = {"probe_interval": "0.1", "hold_down": "1"}
EVERY_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)


@pytest.fixture
def egress(make_lab: Callable[..., Lab], world: World, tmp_path: Path) -> EgressCluster:
    """Nodes 1 and 2 may be given the address of toto; node 0 has the client and the controller."""
    lab = make_lab(nodes=3, shape=world.shape)
    lab.echo(SERVICE, tcp=[80], udp=53)
    egress = EgressCluster(lab, tmp_path / "state", world)
    for node in lab.nodes[1:]:
        egress.change("HostSubnet", egress.name(node), egressCIDRs=["192.0.2.40/29"])
    egress.namespace("toto", FIRST)
    return egress


def holder_of(egress: EgressCluster) -> Host | None:
    """Return the node that the address is assigned to."""
    path = egress.state / RECORD_FILE
    assignment = json.loads(path.read_text())["assignment"] if path.exists() else {}
    return next((node for node in egress.lab.nodes if FIRST in assignment.get(node.name, ())), None)


def served_by(egress: EgressCluster, node: Host) -> bool:
    return holder_of(egress) is node and FIRST in egress.ask(node)["held"]


def begin(egress: EgressCluster) -> tuple[Host, Host, Host]:
    """Start everything; return the client, the node with the address, and the one that may take it over."""
    client = egress.pod("client", "toto", 0)
    egress.start()
    egress.start_controller("controller", egress.lab.nodes[0], **QUICK)
    egress.until(lambda: (node := holder_of(egress)) is not None and served_by(egress, node))
    egress.settle()
    egress.until(lambda: egress.source_of(client, timeout=0.2) == FIRST)
    first = holder_of(egress)
    assert first is not None
    (second,) = (node for node in egress.lab.nodes[1:] if node is not first)
    return client, first, second


def answered_by(lab: Lab, ip: str) -> set[str]:
    """Return the MACs that answer ARP for an address."""
    done = lab.gateway.run(["arping", "-c", "2", "-w", "1", "-I", "eth0", ip], check=False)
    return {line.split("[")[1].split("]")[0].lower() for line in done.stdout.splitlines() if "[" in line}


@EVERY_WORLD
def test_an_address_goes_to_another_node_when_its_connections_are_over(egress: EgressCluster) -> None:
    lab = egress.lab
    client, first, second = begin(egress)
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as stream, lab.capture() as capture:
        stream.settimeout(2)
        stream.connect((SERVICE, 80))
        stream.sendall(b"hello")
        assert stream.recv(200).decode().split()[0] == FIRST
        command = [sys.executable, "-m", "egress_router", "node", "drain", "--timeout", "3"]
        process = subprocess.Popen(
            [*command, "--socket", str(egress.socket_of(first))], stdout=-1, stderr=-1, text=True
        )
        egress.until(lambda: (egress.ask(first)["drain"] or {}).get("connections") == 1)
        time.sleep(4)
        assert holder_of(egress) is first, "connections are waited for, longer than --timeout"
        stream.sendall(b"still here")
        assert stream.recv(200) == b"still here"
        assert process.poll() is None
        stream.close()
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "handed over\n"), err
        assert "no other holder" not in err
        assert f"{FIRST}: to be given to other nodes, once no connection is waited for" in err
        egress.until(partial(served_by, egress, second))
        egress.until(lambda: egress.source_of(client, timeout=0.2) == FIRST)
        assert answered_by(lab, FIRST) == {second.mac("eth0")}
        assert not capture.leaks(allowed={FIRST})
    egress.ask(first, "undrain")
    egress.until(lambda: "is not drained any more" in egress.logs["controller"].read_text())
    time.sleep(1)
    assert holder_of(egress) is second, "nothing moves without a reason"


@pytest.mark.parametrize("world", WORLDS[:1], ids=str)
def test_what_no_other_node_may_have_stays(egress: EgressCluster) -> None:
    """The namespace goes on leaving through the node that is drained, until another one may have its address."""
    lab = egress.lab
    egress.change("HostSubnet", egress.name(lab.nodes[2]), egressCIDRs=[])
    client, first, second = begin(egress)
    with lab.capture() as capture, talking(partial(egress.source_of, client, timeout=0.3)) as heard:
        drain = ["node", "drain", "--grace", "0", "--timeout", "1", "--socket", str(egress.socket_of(first))]
        assert guarded(lambda: run(drain)) == 75, "something new still leaves by it"
        assert {answer for _, answer in heard} == {FIRST}
        egress.change("HostSubnet", egress.name(second), egressCIDRs=["192.0.2.40/29"])
        egress.until(partial(served_by, egress, second))
        egress.until(lambda: heard[-1][1] == FIRST)
        egress.until(lambda: bool(egress.ask(first)["drain"]["done"]))
        assert not capture.leaks(allowed={FIRST})


def leave(egress: EgressCluster, node: Host, section: str) -> None:
    """Do what systemd does with the unit at a start or a stop."""
    unit = subprocess.run(
        [sys.executable, "-m", "egress_router", "node", "leave", "--unit", "--socket", str(egress.socket_of(node))],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (line,) = (line for line in unit.splitlines() if line.startswith(f"{section}="))
    node.run(shlex.split(line.removeprefix(f"{section}=")))


@EVERY_WORLD
@pytest.mark.parametrize("agent", ["agent runs", "agent has ended"])
def test_at_a_shutdown_an_address_goes_to_another_node_although_the_kernel_lives(
    egress: EgressCluster, agent: str
) -> None:
    """The node hangs in its shutdown: its kernel goes on for ever, and it answers for nothing any more."""
    lab = egress.lab
    client, first, second = begin(egress)
    if agent == "agent has ended":
        egress.agents[first.name].kill()
        egress.agents[first.name].wait()
        time.sleep(3)
        assert holder_of(egress) is first, "positive control: an agent that dies is no outage"
    egress.until(lambda: answered_by(lab, FIRST) == {first.mac("eth0")})
    with lab.capture() as capture:
        start = time.monotonic()
        leave(egress, first, "ExecStop")
        assert answered_by(lab, FIRST) == set()
        egress.until(partial(served_by, egress, second))
        egress.until(lambda: egress.source_of(client, timeout=0.2) == FIRST)
        print(f"{agent}: leaves by the other node after {time.monotonic() - start:.1f} s")
        assert answered_by(lab, FIRST) == {second.mac("eth0")}
        assert not capture.leaks(allowed={FIRST})


@EVERY_WORLD
def test_at_a_shutdown_the_other_holder_takes_over(two_holders: EgressCluster) -> None:
    """Also in the status of the node itself; and when the unit is started again, all is as before."""
    cluster = two_holders
    lab = cluster.lab
    cluster.namespace("toto", FIRST, SECOND, FIRST6)
    cluster.holds(lab.nodes[1], FIRST, FIRST6)
    client, first, second, holder = one_client(cluster)
    # Until then a new address is announced, by whoever has it.
    time.sleep(ANNOUNCEMENTS * ANNOUNCE_EVERY)
    with lab.capture() as capture:
        start = time.monotonic()
        leave(cluster, holder, "ExecStop")
        cluster.until(lambda: cluster.source_of(client, timeout=0.1) == second)
        took = time.monotonic() - start
        print(f"the other holder takes over after {1000 * took:.0f} ms")
        assert took < 5, "what it takes on a busy machine"
        assert answered_by(lab, first) == set()
        lab.gateway.ip("neigh flush dev eth0")
        lab.gateway.run(["ping", "-6", "-c", "1", "-W", "1", FIRST6], check=False)
        assert ("lladdr" in lab.gateway.ip(f"-6 neigh show {FIRST6}")) == (holder is not lab.nodes[1])
        cluster.until(lambda: any("this node leaves" in text for text in cluster.ask(holder)["problems"]))
        repairs = holder.run(["curl", "-s", f"http://{_at(holder, cluster)}:9910/metrics"]).stdout
        assert "egress_router_node_repairs_total 0.0" in repairs, "the agent takes nothing back"
        leave(cluster, holder, "ExecStart")
        cluster.until(lambda: cluster.source_of(client, timeout=0.1) == first)
        assert answered_by(lab, first) == {holder.mac("eth0")}
        cluster.until(lambda: not any("this node leaves" in text for text in cluster.ask(holder)["problems"]))
        assert not capture.leaks(allowed={first, second})


def _at(node: Host, cluster: EgressCluster) -> str:
    address = str(node.addresses[cluster.world.underlay])
    return f"[{address}]" if ":" in address else address
