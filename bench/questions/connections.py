"""New connections per second through the redirect router, all through its last rule."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from bench.figures import Check, Ratio
from bench.harness import Arm, Run
from bench.load import SERVICE, answer_http, wrk
from bench.question import GrowthTable, Metric, Question, SizeTable
from bench.router import BACKENDS, SCRIPT_QUIET, RouterPods, forget_connections, last, many
from lab import Host, Lab
from lab.addressing import Address

LINEAR, DIRECT = "one rule a line", "direct path"
#: The shell script's table is one linear rule for each destination.
MADE_BY = {LINEAR: SCRIPT_QUIET, "nftables": "nftables", "iptables": "iptables"}


def measure(run: Run) -> None:
    """Ask through routers of every size, and without one."""
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=1) as lab:
        server = answer_http(lab.services, Path(directory))
        client = lab.pod("client")

        def turn(router: Host | None, address: Address | str, port: int) -> dict[str, float]:
            forget_connections(client, lab.nodes[0], lab.gateway, *([router] if router else []))
            return wrk(client, f"http://{address}:{port}/", server)

        routers = RouterPods(lab, Path(directory), run)
        arms = [Arm(DIRECT, partial(turn, None, SERVICE, 80))]
        for size in run.sizes:
            for name, command in MADE_BY.items():
                run.say(f"setting up {name}, {size:,}")
                pod, _ = routers.make(command, many(size))
                arms.append(Arm(name, partial(turn, pod, pod.addresses[4], last(size)), size))
        run.interleave(arms, int(run.pick(5, 2)))


QUESTION = Question(
    name="connections",
    title="New connections through the redirect router",
    size_means="destinations",
    metrics=(
        Metric("rate", "Connections per second", "/s"),
        Metric("work", "Connections per second of processor time, client's and server's", "/s"),
        Metric("p50", "Latency of a request with its connection, median", "ms", 1e3),
        Metric("p99", "Latency of a request with its connection, 99th percentile", "ms", 1e3),
        Metric("failed", "Failed connections", ""),
    ),
    tables=(
        SizeTable("rate", (*BACKENDS, LINEAR), DIRECT, sizeless=(DIRECT,)),
        GrowthTable("rate", (*BACKENDS, LINEAR)),
        SizeTable("work", (*BACKENDS, LINEAR), DIRECT, sizeless=(DIRECT,), plot=False),
        SizeTable("p50", (*BACKENDS, LINEAR), DIRECT, sizeless=(DIRECT,), plot=False),
        SizeTable("p99", (*BACKENDS, LINEAR), DIRECT, sizeless=(DIRECT,), plot=False),
    ),
    goals=(
        *(
            Check(
                Ratio("rate", backend, backend, 10_000, 1),
                f"{backend}: the rate with 10,000 destinations is that with one",
                at_least=0.95,
            )
            for backend in BACKENDS
        ),
        *(
            Check(
                Ratio("rate", backend, LINEAR, 10_000, 10_000),
                f"{backend}: three times one rule a line, with 10,000",
                at_least=3,
            )
            for backend in BACKENDS
        ),
    ),
    measure=measure,
)
