"""What egress IPs cost packets and connections. Needs root, iperf3, haproxy and wrk.

Two comparisons, each interleaved and several times: tables with one pod against tables with 10,000 pods, for a pod
whose node holds its egress IP; then a pod whose node holds its egress IP against one whose traffic takes the tunnel.
Beside rates it prints the work done per second of CPU time of client and server, which a busy machine disturbs less:
packets of veth pairs are carried on the sender's time. Run: ``python bench/egressip_packets.py [ROUNDS]``
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from egress_router.egressip.node.nft_rules import replace_script
from egress_router.egressip.node.state import Direct, NodeSettings, NodeState
from lab import LAN, PODS, Host, Lab
from tests.egressip.kernel.egress_cluster import EgressCluster

SERVICE, EGRESS_IP, FAR_IP = "203.0.113.25", "192.0.2.45", "192.0.2.54"
MANY = 10_000
SECONDS = 1
HAPROXY = f"""
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
frontend f
  bind {SERVICE}:80
  http-request return status 200 content-type text/plain string ok
"""
TICK = os.sysconf("SC_CLK_TCK")
Figures = dict[str, float]


class Servers:
    """What answers behind the gateway."""

    def __init__(self, lab: Lab, folder: str) -> None:
        config = Path(folder, "haproxy.cfg")
        config.write_text(HAPROXY)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.haproxy = lab.services.popen(["haproxy", "-f", str(config)], **quiet)
        self.iperf = lab.services.popen(["iperf3", "-s", "-B", SERVICE], **quiet)
        time.sleep(0.5)

    def measure(self, client: Host) -> Figures:
        """Return throughput and new connections per second, of time and of CPU time."""
        with work(self.iperf.pid) as spent:
            report = client.run(["iperf3", "-c", SERVICE, "-t", str(SECONDS), "-J"], timeout=30).stdout
        gigabits = json.loads(report)["end"]["sum_received"]["bytes"] * 8 / 1e9
        found = {"Gbit/s": gigabits / SECONDS, "Gbit per CPU second": gigabits / spent[0]}
        with work(self.haproxy.pid) as spent:
            wrk = ["wrk", "-t1", "-c32", f"-d{SECONDS}s", "-H", "Connection: close", f"http://{SERVICE}/"]
            text = client.run(wrk, timeout=30).stdout
        rate = float(next(line.split()[1] for line in text.splitlines() if line.startswith("Requests/sec")))
        total = float(next(line.split()[0] for line in text.splitlines() if " requests in " in line))
        return found | {"connections/s": rate, "connections per CPU second": total / spent[0]}


@contextmanager
def work(server: int) -> Iterator[list[float]]:
    """Yield a list that gets the CPU seconds of a server and of the commands that end meanwhile."""

    def now() -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
        return ended.ru_utime + ended.ru_stime + (int(fields[11]) + int(fields[12])) / TICK

    spent: list[float] = []
    start = now()
    yield spent
    spent.append(now() - start)


def compare(names: tuple[str, str], rounds: int, measure: Callable[[str], Figures]) -> None:
    """Measure both in turn and print medians and the median of the ratios, second to first."""
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        # Each goes first every other time: what a run leaves behind (connections in TIME_WAIT) slows the next one.
        for name in names[:: -1 if number % 2 else 1]:
            found[name].append(measure(name))
    for what in found[names[0]][0]:
        first, second = ([figures[what] for figures in found[name]] for name in names)
        ratios = [b / a for a, b in zip(first, second, strict=True)]
        print(
            f"{what}: {names[0]} {statistics.median(first):.1f}, {names[1]} {statistics.median(second):.1f}, "
            f"median of ratios {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def state(ip: str, pods: int) -> NodeState:
    others = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(1, pods)]
    every = [ip, *others]
    return NodeState(
        paths=dict.fromkeys(every, Direct.LOCAL_GATEWAY),
        translations=dict.fromkeys(every, EGRESS_IP),
        egress=frozenset(every),
        assigned=frozenset({EGRESS_IP}),
        pods=frozenset({"198.51.100.0/27"}),
    )


def pods_in_the_maps(rounds: int) -> None:
    settings = NodeSettings("node-1", "eth0", (LAN[4], LAN[6], PODS[4], PODS[6]))
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        node, client = lab.nodes[0], lab.pod("client")
        node.add_addresses([EGRESS_IP])
        servers = Servers(lab, folder)
        ip = str(client.addresses[4])
        names = ("one pod", f"{MANY} pods")
        scripts = {
            name: replace_script(settings, state(ip, pods), 1450) for name, pods in zip(names, (1, MANY), strict=True)
        }

        def measure(name: str) -> Figures:
            node.nft(scripts[name])
            return servers.measure(client)

        compare(names, rounds, measure)


def through_the_tunnel(rounds: int) -> None:
    with Lab(nodes=2) as lab, tempfile.TemporaryDirectory() as folder:
        cluster = EgressCluster(lab, Path(folder, "state"))
        for number, (name, ip) in enumerate((("near", EGRESS_IP), ("far", FAR_IP))):
            cluster.namespace(name, ip)
            cluster.holds(lab.nodes[number], ip)
        names = ("node holds it", "through the tunnel")
        clients = {name: cluster.pod(space, space, 0) for name, space in zip(names, ("near", "far"), strict=True)}
        servers = Servers(lab, folder)
        cluster.start()
        cluster.settle()
        compare(names, rounds, lambda name: servers.measure(clients[name]))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    pods_in_the_maps(rounds)
    through_the_tunnel(rounds)


if __name__ == "__main__":
    main()
