"""The automatic assignment while nodes die and controllers are killed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from egress_router.egressip.controller.leader_election import RECORD_FILE, record_assignment
from egress_router.errors import TryAgainError
from lab import Lab
from tests.egressip.kernel.egress_cluster import SERVICE, EgressCluster, talking
from tests.support.figures import check as check_figures

pytestmark = pytest.mark.root

FIRST, SECOND = "192.0.2.45", "192.0.2.54"
QUICK = {"probe_interval": "0.1", "hold_down": "1"}


@pytest.fixture
def egress(make_lab: Callable[..., Lab], shape: str, tmp_path: Path) -> EgressCluster:
    """Nodes 1 and 2 may be given addresses; node 0 has the client and the controllers."""
    lab = make_lab(nodes=3, shape=shape)
    lab.echo(SERVICE, tcp=[80], udp=53)
    egress = EgressCluster(lab, tmp_path / "state")
    for node in lab.nodes[1:]:
        egress.change("HostSubnet", egress.name(node), egressCIDRs=["192.0.2.40/29"])
    egress.namespace("toto", FIRST)
    return egress


def holder_of(egress: EgressCluster, ip: str = FIRST) -> str:
    """Return the node that the address is assigned to, "" when it is none."""
    path = egress.state / RECORD_FILE
    assignment = json.loads(path.read_text())["assignment"] if path.exists() else {}
    return next((node for node, ips in assignment.items() if ip in ips), "")


def served(egress: EgressCluster, holder: str) -> bool:
    return holder_of(egress) == holder


@contextmanager
def never_two(egress: EgressCluster) -> Iterator[list[int]]:
    """Look at the interfaces again and again: no two nodes have the address at once."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            shown = [FIRST in node.ip("-4 addr show dev eth0") for node in egress.lab.nodes]
            seen.append(sum(shown))
            stop.wait(0.02)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(5)
    assert seen
    assert max(seen) <= 1


def test_a_node_dies_and_comes_back(egress: EgressCluster) -> None:
    lab = egress.lab
    client = egress.pod("client", "toto", 0)
    egress.start()
    controller = egress.start_controller("controller", lab.nodes[0], **QUICK)
    egress.until(lambda: holder_of(egress) != "")
    egress.settle()
    first = next(node for node in lab.nodes if node.name == holder_of(egress))
    second = next(node for node in lab.nodes[1:] if node is not first)
    with lab.capture() as capture, talking(partial(egress.source_of, client, timeout=0.05)) as heard:
        egress.until(lambda: bool(heard) and heard[-1][1] == FIRST)
        lab.unplug(first)
        egress.until(partial(served, egress, second.name))
        cut = len(heard)
        egress.until(lambda: len(heard) > cut and heard[-1][1] == FIRST)
        assert capture.owner_mac(FIRST) == second.mac("eth0")
        lab.plug(first)
        egress.until(lambda: "is given addresses in" in egress.logs["controller"].read_text())
        time.sleep(1.2)
        assert served(egress, second.name), "it was held down, and has no reason to move now"
        assert json.loads((egress.state / RECORD_FILE).read_text())["offline"] == []
        text = (egress.state / RECORD_FILE).read_text()
        back = len(heard)
        controller.kill()
        controller.wait()
        another = egress.start_controller("another", lab.nodes[0], **QUICK)
        egress.until(lambda: "assigns" in egress.logs["another"].read_text())
        time.sleep(1)
        assert (egress.state / RECORD_FILE).read_text() == text, "a new controller moves nothing"
        figures = lab.nodes[0].run(["curl", "-s", "http://127.0.0.1:9911/metrics"]).stdout
        assert "egress_router_controller_leads 1.0" in figures
        check_figures("controller", figures)
        assert "egress_router_controller_moves_total 0.0" in figures
        assert 'egress_router_controller_nodes{health="up"} 3.0' in figures
        assert lab.nodes[0].run(["curl", "-s", "http://127.0.0.1:9911/readyz"]).stdout == "ready\n"
        assert {answer for _, answer in heard[back:]} == {FIRST}
        another.terminate()
        assert another.wait(5) == 0
        assert not capture.leaks(allowed={FIRST})


@pytest.mark.parametrize("shape", ["bridge"])
def test_one_controller_assigns_whatever_it_sees(egress: EgressCluster) -> None:
    """Controllers compete; then the one that assigns cannot see a node that all others see."""
    lab = egress.lab
    node = lab.nodes[0]
    client = egress.pod("client", "toto", 0)
    egress.start()
    # Slower than QUICK: a busy machine must not make a node look down.
    times = QUICK | {"probe_interval": "0.3"}
    one = egress.start_controller("one", node, **times)
    egress.until(lambda: holder_of(egress) != "")
    egress.start_controller("two", lab.nodes[2], **times)
    egress.until(lambda: "stands by" in egress.logs["two"].read_text())
    with pytest.raises(TryAgainError, match="two must not"):
        record_assignment(egress.state, ())
    one.kill()
    one.wait()
    egress.until(lambda: '"message": "assigns"' in egress.logs["two"].read_text())
    egress.settle()
    assert served(egress, lab.nodes[1].name), "of two that hold nothing, the first"
    with never_two(egress), lab.capture() as capture:
        lab.nodes[2].nft(
            "table inet blind { chain out { type filter hook output priority 0; "
            f"ip protocol icmp ip daddr {lab.nodes[1].addresses[4]} drop\n}}\n}}\n"
        )
        egress.until(partial(served, egress, lab.nodes[2].name))
        egress.until(lambda: egress.source_of(client, timeout=0.2) == FIRST)
        lab.nodes[2].nft("delete table inet blind")
        egress.until(lambda: "is given addresses in" in egress.logs["two"].read_text())
        time.sleep(1.5)
        assert egress.source_of(client) == FIRST
        assert not capture.leaks(allowed={FIRST})
