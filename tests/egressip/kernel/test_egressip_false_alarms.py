"""A machine that is busy is not taken for dead. Half an hour, so on demand.
Figures of how soon a dead one is found are those of bench/questions/egress_ips.py.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Lab
from tests.egressip.kernel.egress_cluster import WORLDS, EgressCluster, World, two_holders
from tests.support.endpoint import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.timeout(2400)]

SECONDS = 1800.0


@pytest.mark.parametrize("world", WORLDS[:1], ids=str)
def test_no_busy_machine_is_taken_for_dead(make_lab: Callable[..., Lab], tmp_path: Path, world: World) -> None:
    """With a loop for each core that never sleeps, and default settings."""
    cluster = two_holders(make_lab(nodes=3, shape=world.shape), tmp_path / "state", world)
    cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    before = {node.name: failovers(cluster, number) for number, node in enumerate(cluster.lab.nodes)}
    loops = [cluster.lab.services.popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(5)
        assert all(loop.poll() is None for loop in loops), "positive control"
    after = {node.name: failovers(cluster, number) for number, node in enumerate(cluster.lab.nodes)}
    assert after == before, cluster.text()[-4000:]
    gone = cluster.lab.nodes[1]
    cluster.lab.unplug(gone)
    cluster.until(lambda: failovers(cluster, 0) > before[cluster.lab.nodes[0].name])


def failovers(cluster: EgressCluster, number: int) -> float:
    """Return how many gateways in use a node has seen go."""
    node = cluster.lab.nodes[number]
    _, text = Endpoint(node, str(node.addresses[cluster.world.underlay]), 9910).get("/metrics")
    found = re.search(r"^egress_router_node_failovers_total (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])
