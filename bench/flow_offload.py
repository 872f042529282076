"""What a packet of an established connection costs with EGRESS_FLOW_OFFLOAD and without, on a kernel with flow tables.

Not a question of scripts/bench, whose machines may have none: `scripts/test-kernels --kernel 6.1 --shell
'.venv/bin/python -m bench.flow_offload'`. The virtual machine counts an instruction as a nanosecond, so times there are
instructions, whatever else the machine does; with KVM they are times.

Small packets come from pktgen in the client's namespace, and an nft hook behind the router's macvlan drops and counts
them: see Documentation/networking/pktgen.rst of the kernel. The two ways take turns.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lab import Host, Lab
from lab.addressing import EXTERNAL
from tests.support.kernels import on_a_distribution_kernel

SOURCES = {4: "192.0.2.46", 6: "2001:db8:2::46"}
SERVERS = {4: str(EXTERNAL[4][25]), 6: str(EXTERNAL[6][0x25])}
PORT, IPERF = 5000, 5201
COUNT = 20_000
SETTINGS = {"on": "on", "off": "off"}
RESULT = re.compile(r"Result: OK: (\d+)\(")


class Bench:
    """A lab with a client, a router that is made anew for each turn, and a server."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.client = lab.pod("client")
        self.router = lab.pod("router")
        lab.macvlan(self.router)
        self.node = lab.nodes[0]
        for server in SERVERS.values():
            lab.echo(server, udp=[PORT])
        lab.services.popen(["iperf3", "-s", "-p", str(IPERF)], stdout=-3)
        if not on_a_distribution_kernel():
            raise RuntimeError("this is for the virtual machine of scripts/test-kernels: it changes the whole machine")
        # pktgen is faster than what takes its packets.
        Path("/proc/sys/net/core/netdev_max_backlog").write_text("100000")
        subprocess.run(["modprobe", "pktgen"], check=True)

    def init(self, setting: str) -> None:
        """Have the router set up with a value of EGRESS_FLOW_OFFLOAD; connections after that are new ones."""
        lines = [f"{PORT} udp {server}\n{IPERF} tcp {server}" for server in SERVERS.values()]
        env = {
            "EGRESS_SOURCE": " ".join(SOURCES.values()),
            "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1",
            "EGRESS_ROUTER_MODE": "init",
            "EGRESS_DAD": "off",
            "EGRESS_NAT_BACKEND": "nftables",
            "EGRESS_FLOW_OFFLOAD": setting,
            "EGRESS_DESTINATION": "\n".join(lines),
        }
        self.router.run([sys.executable, "-m", "egress_router", "init"], env=env, timeout=60)

    def packets(self, family: int) -> float:
        """Return what a packet of 60 bytes costs, sender included, in instructions."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with self.client.socket(kind, socket.SOCK_DGRAM) as opened:
            opened.settimeout(3)
            opened.connect((str(self.router.addresses[family]), PORT))
            for _ in range(3):
                opened.send(b"hello")
                opened.recv(100)
            with _Sink(self.node, family) as sink:
                took = _send(self.client, self.router, family, opened.getsockname()[1])
                time.sleep(0.2)
                arrived = sink.count()
        if arrived != COUNT:
            raise RuntimeError(f"{arrived} of {COUNT} packets arrived")
        return took / COUNT

    def throughput(self, family: int, *, segments: bool) -> float:
        """Return the Mbit/s of one TCP stream; without ``segments`` each packet is made by itself."""
        self.client.ip(f"link set eth0 gso_max_segs {65535 if segments else 1}")
        address = str(self.router.addresses[family])
        command = ["iperf3", "-c", address, "-p", str(IPERF), "-t", "1", "-J"]
        return (
            float(json.loads(self.client.run(command, timeout=60).stdout)["end"]["sum_received"]["bits_per_second"])
            / 1e6
        )


class _Sink:
    """Drops and counts, behind the macvlan's parent, what goes to the server's port."""

    def __init__(self, node: Host, family: int) -> None:
        self._node = node
        match = f"{'ip' if family == 4 else 'ip6'} daddr {SERVERS[family]} udp dport {PORT}"
        self._rule = f"{match} counter drop"

    def __enter__(self) -> _Sink:
        hook = 'type filter hook egress device "eth0" priority 0; policy accept;'
        # Not `all`, which is a word of nft's.
        self._node.nft(f"table netdev sink {{\n chain sent {{\n {hook}\n {self._rule}\n }}\n}}\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._node.nft("delete table netdev sink")

    def count(self) -> int:
        """Return how many packets have arrived."""
        listed = self._node.run(["nft", "list", "table", "netdev", "sink"]).stdout
        found = re.search(r"packets (\d+)", listed)
        return int(found[1]) if found else 0


def _send(client: Host, router: Host, family: int, port: int) -> float:
    """Send COUNT packets of a flow that is known, and return the nanoseconds that it took."""
    digit = "" if family == 4 else "6"
    own, to = client.addresses[family], router.addresses[family]
    sources = (f"src_min {own}", f"src_max {own}") if family == 4 else (f"src6 {own}",)
    device = [
        f"count {COUNT}",
        "delay 0",
        "clone_skb 0",
        f"pkt_size {60 if family == 4 else 80}",
        "flag UDPCSUM",
        f"dst{digit} {to}",
        *sources,
        f"dst_mac {router.mac()}",
        f"udp_src_min {port}",
        f"udp_src_max {port}",
        f"udp_dst_min {PORT}",
        f"udp_dst_max {PORT}",
    ]
    thread = ["rem_device_all", "add_device eth0"]
    lines = [f"echo '{line}' >/proc/net/pktgen/kpktgend_0" for line in thread]
    lines += [f"echo '{line}' >/proc/net/pktgen/eth0" for line in device]
    lines += ["echo start >/proc/net/pktgen/pgctrl", "cat /proc/net/pktgen/eth0"]
    said = client.run(["sh", "-e", "-c", "\n".join(lines)], timeout=120).stdout
    found = RESULT.search(said)
    if found is None:
        raise RuntimeError(f"pktgen says:\n{said}")
    return float(found[1]) * 1000


def compare(bench: Bench, measure: Callable[[], float], rounds: int) -> dict[str, list[float]]:
    """Measure both ways in turns, in an order that turns around each time."""
    found: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    for number in range(rounds):
        for setting in sorted(SETTINGS, reverse=bool(number % 2)):
            bench.init(setting)
            found[setting].append(measure())
    return found


def row(title: str, found: dict[str, list[float]], ratios: list[float]) -> str:
    """Return a row of docs/performance.md."""
    medians = " | ".join(f"{statistics.median(found[setting]):,.0f}" for setting in ("off", "on"))
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    return f"| {title} | {medians} | {statistics.median(ratios):.2f} ({spread}) | {len(ratios)} |"


def main() -> None:
    """Print rows of the table in docs/performance.md."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with Lab(nodes=1) as lab:
        bench = Bench(lab)
        for family in SERVERS:
            found = compare(bench, partial(bench.packets, family), rounds)
            ratios = [off / on for off, on in zip(found["off"], found["on"], strict=True)]
            print(row(f"IPv{family}, a small packet: instructions, sender included", found, ratios), flush=True)
        for family in SERVERS:
            for segments in (True, False):
                found = compare(bench, partial(bench.throughput, family, segments=segments), rounds)
                ratios = [on / off for off, on in zip(found["off"], found["on"], strict=True)]
                title = f"IPv{family}, one TCP stream{'' if segments else ', packets made one by one'}: Mbit/s"
                print(row(title, found, ratios), flush=True)


if __name__ == "__main__":
    main()
