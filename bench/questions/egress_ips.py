"""Namespace egress IPs: the distribution of switch-overs, and what pods in the maps cost packets and connections."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from bench.egressip_packets import EGRESS_IP, state
from bench.figures import Check, Ratio, Value
from bench.harness import SIZES, Arm, Run
from bench.load import SERVICE, answer_http, answer_iperf, iperf_small, iperf_tcp, source_seen, wrk
from bench.question import Distribution, GrowthTable, Metric, Question, SizeTable
from bench.router import forget_connections
from bench.switch_over import Moving
from egress_router.egressip.node.nft_rules import replace_script
from egress_router.egressip.node.state import NodeSettings
from lab import LAN, PODS, Host, Lab

OURS, PLAIN = "egress IPs", "node NAT without egress IPs"
CUT, DRAIN, DRAIN_OWN = "power cut", "drain", "drain of the pod's own node"
MOVES = (CUT, DRAIN, DRAIN_OWN)
IPERF, MTU = 5201, 1450
#: Moves of each kind.
TIMES = {CUT: 40, DRAIN: 20, DRAIN_OWN: 20}


def measure(run: Run) -> None:
    """Compare nodes with tables of every size with one that has none; then move addresses."""
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=1 + len(SIZES)) as lab:
        _packets(run, lab, Path(directory))
    if run.quick:
        return
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=3) as lab:
        moving = Moving(lab, Path(directory))
        _move(run, ((CUT, moving.cut), (DRAIN, moving.drain)))
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=3) as lab:
        _move(run, ((DRAIN_OWN, Moving(lab, Path(directory), place=1).drain),))


def _move(run: Run, moves: Iterable[tuple[str, Callable[[], dict[str, float]]]]) -> None:
    for name, move in moves:
        for number in range(1, TIMES[name] + 1):
            run.say(f"{name} {number} of {TIMES[name]}")
            run.record(name, 0, move())


def _packets(run: Run, lab: Lab, directory: Path) -> None:
    web, bulk = answer_http(lab.services, directory), answer_iperf(lab.services, IPERF)

    def turn(node: Host, client: Host) -> dict[str, float]:
        forget_connections(node, lab.gateway, client)
        rate = wrk(client, f"http://{SERVICE}/", web)
        small = iperf_small(client, SERVICE, IPERF, run.pick(2, 1), bulk)
        return {**rate, **small, **iperf_tcp(client, SERVICE, IPERF, run.pick(2, 1), bulk)}

    arms = []
    for number, size in enumerate((0, *run.sizes)):
        node, client = lab.nodes[number], lab.pod(f"client-{number}", node=number)
        if size:
            # A node for each size, each with an egress IP of its own; the pod that asks is one of `size`.
            ip = EGRESS_IP.rpartition(".")[0] + f".{45 + number}"
            node.add_addresses([ip])
            settings = NodeSettings(node.name, "eth0", (LAN[4], LAN[6], PODS[4], PODS[6]))
            script = replace_script(settings, state(str(client.addresses[4]), size), MTU)
            node.nft(script.replace(EGRESS_IP, ip).replace("198.51.100.0/27", f"198.51.100.{32 * number}/27"))
            seen = source_seen(lab, client)
            if seen != ip:
                raise RuntimeError(f"{size} pods: the service saw {seen}, not {ip}")
        arms.append(Arm(OURS if size else PLAIN, partial(turn, node, client), size))
    run.interleave(arms, int(run.pick(5, 2)))


QUESTION = Question(
    name="egress-ips",
    title="Namespace egress IPs",
    size_means="pods",
    metrics=(
        Metric("moved", "Time until the other address is used", "ms", 1e3),
        Metric("silent", "Longest time without an answer", "ms", 1e3),
        Metric("lost", "Packets lost, of one every 2 ms", ""),
        Metric("leaked", "Packets that left with another source", ""),
        Metric("rate", "New connections per second", "/s"),
        Metric("work", "Connections per second of processor time, client's and server's", "/s"),
        Metric("carried", "TCP, of a second of processor time", "Gbit"),
        Metric("p99", "Latency of a request with its connection, 99th percentile", "ms", 1e3),
        Metric("throughput", "TCP throughput", "Gbit/s"),
        Metric("packets", "64 byte datagrams", "/s"),
        Metric("small", "64 byte datagrams per second of processor time, client's and server's", "/s"),
    ),
    tables=(
        Distribution("moved", MOVES),
        Distribution("silent", MOVES),
        Distribution("lost", MOVES),
        Distribution("leaked", MOVES, plot=False),
        SizeTable("rate", (OURS,), PLAIN, sizeless=(PLAIN,)),
        SizeTable("throughput", (OURS,), PLAIN, sizeless=(PLAIN,)),
        SizeTable("packets", (OURS,), PLAIN, sizeless=(PLAIN,)),
        SizeTable("work", (OURS,), PLAIN, sizeless=(PLAIN,), plot=False),
        SizeTable("carried", (OURS,), PLAIN, sizeless=(PLAIN,), plot=False),
        SizeTable("small", (OURS,), PLAIN, sizeless=(PLAIN,), plot=False),
        SizeTable("p99", (OURS,), PLAIN, sizeless=(PLAIN,), plot=False),
        GrowthTable("rate", (OURS,)),
        GrowthTable("throughput", (OURS,)),
    ),
    goals=(
        Check(Value("silent", CUT), "half of the switch-overs within 160 ms", at_most=0.16),
        Check(Value("silent", CUT, statistic="high"), "every switch-over within 0.25 s", at_most=0.25),
        Check(Value("leaked", CUT, statistic="high"), "no packet with a wrong source, power cut", at_most=0),
        Check(Value("leaked", DRAIN, statistic="high"), "no packet with a wrong source, drain", at_most=0),
        Check(Value("lost", DRAIN, statistic="high"), "a drain loses no packet", at_most=0),
        Check(Value("leaked", DRAIN_OWN, statistic="high"), "no wrong source, drain of the pod's own node", at_most=0),
        Check(Value("lost", DRAIN_OWN, statistic="high"), "a drain of the pod's own node loses no packet", at_most=0),
        Check(Ratio("rate", OURS, OURS, 10_000, 1), "connections with 10,000 pods are those with one", at_least=0.95),
        Check(Ratio("throughput", OURS, OURS, 10_000, 1), "throughput with 10,000 pods: that with one", at_least=0.95),
        Check(Ratio("rate", OURS, PLAIN, 10_000), "connections with 10,000 pods: those of node NAT", at_least=0.95),
        Check(
            Ratio("packets", OURS, PLAIN, 10_000), "small packets with 10,000 pods: those of node NAT", at_least=0.92
        ),
        Check(Ratio("throughput", OURS, PLAIN, 10_000), "throughput with 10,000 pods: that of node NAT", at_least=0.92),
    ),
    measure=measure,
)
