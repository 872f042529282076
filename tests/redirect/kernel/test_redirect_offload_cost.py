"""What flow offload is for, in instructions of a virtual machine: they are the same whatever else runs here."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest

from bench.flow_offload import SERVERS, Bench, compare
from lab import Lab
from lab.patience import FACTOR

pytestmark = [
    pytest.mark.root,
    pytest.mark.distribution_kernel,
    pytest.mark.on_demand,
    pytest.mark.skipif(FACTOR == 1, reason="with a processor's help a virtual machine counts no instructions"),
]


@pytest.mark.parametrize("family", SERVERS)
def test_a_packet_costs_half(make_lab: Callable[..., Lab], family: int) -> None:
    found = compare(bench := Bench(make_lab(nodes=1)), lambda: bench.packets(family), rounds=2)
    # 1.95 (IPv4) and 2.28 (IPv6) were seen, with what sender and bridge cost; docs/performance.md has the goal of 2.0.
    assert median(found["off"]) >= 1.8 * median(found["on"]), found
