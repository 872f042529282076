"""Egress IPs on another node: what the tunnel costs, beside other ways of bringing packets to a second node."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.figures import Check, Ratio
from bench.harness import Arm, Run
from bench.load import SERVICE, answer_http, answer_iperf, iperf_small, iperf_tcp, source_seen, wrk
from bench.question import ArmTable, Metric, Question
from bench.router import forget_connections
from lab import PODS, Host, Lab
from tests.egressip.kernel.egress_cluster import EgressCluster

OURS, VXLAN, ROUTED = "egress IP by the tunnel", "bare VXLAN, masqueraded", "plain routing, masqueraded"
EGRESS_IP = "192.0.2.54"
IPERF, MTU = 5201, 1450
#: The routing table of what leaves by a second node.
TABLE = 4790
ARMS = ((OURS, 0), (VXLAN, 0), (ROUTED, 0))


def measure(run: Run) -> None:
    """Bring the packets of three pods to a second node each, in turn."""
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=6) as lab:
        web, bulk = answer_http(lab.services, Path(directory)), answer_iperf(lab.services, IPERF)
        seconds = run.pick(2, 1)

        def turn(client: Host, nodes: tuple[Host, ...]) -> dict[str, float]:
            forget_connections(*nodes, lab.gateway, client)
            rate = wrk(client, f"http://{SERVICE}/", web)
            small = iperf_small(client, SERVICE, IPERF, seconds, bulk)
            return {**rate, **small, **iperf_tcp(client, SERVICE, IPERF, seconds, bulk)}

        arms = []
        for number, (name, _) in enumerate(ARMS):
            nodes = tuple(lab.nodes[2 * number : 2 * number + 2])
            client = _WAYS[name](lab, Path(directory), 2 * number)
            expected = EGRESS_IP if name == OURS else str(nodes[1].addresses[4])
            seen = source_seen(lab, client)
            if seen != expected:
                raise RuntimeError(f"{name}: the service saw {seen}, not {expected}")
            arms.append(Arm(name, partial(turn, client, nodes)))
        run.interleave(arms, int(run.pick(7, 2)))


def _by_the_tunnel(lab: Lab, directory: Path, first: int) -> Host:
    cluster = EgressCluster(lab, directory / "state")
    cluster.namespace("toto", EGRESS_IP)
    cluster.holds(lab.nodes[first + 1], EGRESS_IP)
    client = cluster.pod("client", "toto", first)
    both = lab.nodes[first : first + 2]
    cluster.start(*both)
    cluster.settle(*both)
    return client


def _by_vxlan(lab: Lab, _: Path, first: int) -> Host:
    """The device with the kernel's own defaults; the second node's CNI masquerades."""
    one, other = lab.nodes[first : first + 2]
    for number, (here, there) in enumerate(((one, other), (other, one)), start=1):
        ends = f"local {here.addresses[4]} remote {there.addresses[4]}"
        here.ip(f"link add vx0 mtu {MTU} type vxlan id 7 dstport 4789 {ends}")
        here.ip(f"addr add 169.254.7.{number}/30 dev vx0")
        here.ip("link set vx0 up")
    client = lab.pod("vxlan-client", node=first)
    # As our agent makes TCP fit, for nothing.
    client.ip(f"link set eth0 mtu {MTU}")
    _lead(one, client, "169.254.7.2 dev vx0")
    return client


def _by_routing(lab: Lab, _: Path, first: int) -> Host:
    """The second node is the next hop on the LAN; the first one does not masquerade."""
    one, other = lab.nodes[first : first + 2]
    one.nft("delete table inet cni")
    for name in ("all", "eth0"):
        other.sysctl(f"net.ipv4.conf.{name}.send_redirects", 0)
    client = lab.pod("routed-client", node=first)
    _lead(one, client, f"{other.addresses[4]} dev eth0")
    return client


def _lead(node: Host, client: Host, way: str) -> None:
    """Have what a pod sends go another way, but to pods."""
    node.ip(f"route add throw {PODS[4]} table {TABLE}")
    node.ip(f"route add default via {way} table {TABLE}")
    node.ip(f"rule add from {client.addresses[4]} priority 90 lookup {TABLE}")


_WAYS: dict[str, Callable[[Lab, Path, int], Host]] = {OURS: _by_the_tunnel, VXLAN: _by_vxlan, ROUTED: _by_routing}

QUESTION = Question(
    name="egress-tunnel",
    title="Egress IPs on another node",
    size_means="pods",
    metrics=(
        Metric("rate", "new connections", "/s"),
        Metric("work", "of a second of processor time", "/s"),
        Metric("packets", "64 byte datagrams", "/s"),
        Metric("small", "of a second of processor time", "/s"),
        Metric("lost", "of them lost", "%", 100),
        Metric("throughput", "TCP", "Gbit/s"),
        Metric("carried", "TCP, of a second of processor time", "Gbit"),
    ),
    tables=(ArmTable(("rate", "work", "packets", "small", "throughput", "carried"), ARMS, (VXLAN, 0), plot="rate"),),
    goals=tuple(
        Check(Ratio(metric, OURS, VXLAN), f"{words}: those of a bare VXLAN, masqueraded", at_least=0.85)
        for metric, words in (("rate", "connections"), ("packets", "small packets"), ("throughput", "throughput"))
    ),
    measure=measure,
)
