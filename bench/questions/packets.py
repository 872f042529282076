"""What a packet of an established connection pays for the router: throughput, small packets, round trips."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from bench.figures import Check, Ratio
from bench.harness import Arm, Run
from bench.load import SERVICE, answer_datagrams, answer_iperf, iperf_small, iperf_tcp, round_trips
from bench.question import ArmTable, Metric, Question
from bench.router import BACKENDS, SCRIPT_QUIET, RouterPods, many
from lab import Lab
from lab.addressing import Address

DIRECT, SCRIPT = "direct path", "shell script"
IPERF, PINGPONG = 5201, 7000
ARMS = ((DIRECT, 0), (SCRIPT, 1), *((backend, size) for backend in BACKENDS for size in (1, 10_000)))


def measure(run: Run) -> None:
    """Measure the direct path and routers of two sizes in turn."""
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=1) as lab:
        server = answer_iperf(lab.services, IPERF)
        answer_datagrams(lab.services, PINGPONG)
        client = lab.pod("client")
        seconds = run.pick(2, 1)

        def turn(address: Address | str) -> dict[str, float]:
            small = iperf_small(client, address, IPERF, seconds)
            trips = round_trips(client, address, PINGPONG, int(run.pick(5000, 2000)))
            return {**iperf_tcp(client, address, IPERF, seconds, server), **small, **trips}

        routers = RouterPods(lab, Path(directory), run)
        arms = []
        for name, size in ARMS:
            if name == DIRECT:
                arms.append(Arm(DIRECT, partial(turn, SERVICE)))
                continue
            # The other destinations are there; what is measured falls through to the last line, the fallback.
            pod, _ = routers.make(SCRIPT_QUIET if name == SCRIPT else name, many(size), fallback=SERVICE)
            arms.append(Arm(name, partial(turn, pod.addresses[4]), size))
        run.interleave(arms, int(run.pick(5, 1)))


QUESTION = Question(
    name="packets",
    title="Throughput and latency through the redirect router",
    size_means="destinations",
    metrics=(
        Metric("throughput", "TCP", "Gbit/s"),
        Metric("carried", "TCP, of a second of processor time", "Gbit"),
        Metric("packets", "64 byte datagrams", "/s"),
        Metric("lost", "of them lost", "%", 100),
        Metric("p50", "round trip, median", "µs", 1e6),
        Metric("p99", "round trip, 99th percentile", "µs", 1e6),
    ),
    tables=(ArmTable(("throughput", "carried", "packets", "p50", "p99"), ARMS, (DIRECT, 0), plot="throughput"),),
    goals=(
        *(
            Check(
                Ratio("throughput", backend, backend, 10_000, 1),
                f"{backend}: throughput with 10,000 destinations is that with one",
                at_least=0.95,
            )
            for backend in BACKENDS
        ),
        Check(
            Ratio("throughput", "nftables", SCRIPT, 1, 1),
            "nftables: throughput as through the shell script, which does not filter or count",
            at_least=0.95,
        ),
        Check(Ratio("throughput", "nftables", DIRECT, 1), "nftables: nine tenths of the direct path", at_least=0.9),
    ),
    measure=measure,
)
