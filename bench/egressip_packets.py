"""What 10,000 pods in the maps cost a packet and a connection, against one pod. Needs root, iperf3, haproxy and wrk.

One lab, one pod whose node holds its egress IP; tables with one pod and with 10,000 pods are loaded in turn, several
times, and medians and their ratio are printed. Run: ``python bench/egressip_packets.py [ROUNDS]``
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from egress_router.lab import LAN, PODS, Lab
from egress_router.model.node import NodeSettings, NodeState
from egress_router.render.node_nft import replace_script

SERVICE, EGRESS_IP = "203.0.113.25", "192.0.2.45"
MANY = 10_000
SECONDS = 2
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


def state(ip: str, pods: int) -> NodeState:
    others = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(1, pods)]
    every = [ip, *others]
    return NodeState(
        ways=dict.fromkeys(every, "own"),
        translations=dict.fromkeys(every, EGRESS_IP),
        egress=frozenset(every),
        held=frozenset({EGRESS_IP}),
        pods=frozenset({"198.51.100.0/27"}),
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    settings = NodeSettings("node-1", "eth0", (LAN[4], LAN[6], PODS[4], PODS[6]))
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        node, client = lab.nodes[0], lab.pod("client")
        node.add_addresses([EGRESS_IP])
        config = Path(folder, "haproxy.cfg")
        config.write_text(HAPROXY)
        lab.services.popen(["haproxy", "-f", str(config)])
        lab.services.popen(["iperf3", "-s", "-B", SERVICE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ip = str(client.addresses[4])
        scripts = {pods: replace_script(settings, state(ip, pods), 1450) for pods in (1, MANY)}
        found: dict[int, dict[str, list[float]]] = {pods: {"Gbit/s": [], "connections/s": []} for pods in scripts}
        for number in range(rounds):
            # Each goes first every other time: what a run leaves behind (connections in TIME_WAIT) slows the next one.
            for pods, script in sorted(scripts.items(), reverse=number % 2 == 1):
                node.nft(script)
                report = client.run(["iperf3", "-c", SERVICE, "-t", str(SECONDS), "-J"], timeout=30).stdout
                found[pods]["Gbit/s"].append(json.loads(report)["end"]["sum_received"]["bits_per_second"] / 1e9)
                wrk = ["wrk", "-t1", "-c32", f"-d{SECONDS}s", "-H", "Connection: close", f"http://{SERVICE}/"]
                text = client.run(wrk, timeout=30).stdout
                rate = next(line.split()[1] for line in text.splitlines() if line.startswith("Requests/sec"))
                found[pods]["connections/s"].append(float(rate))
        for what in ("Gbit/s", "connections/s"):
            one, many = (statistics.median(found[pods][what]) for pods in (1, MANY))
            pairs = [b / a for a, b in zip(found[1][what], found[MANY][what], strict=True)]
            print(f"{what}: one pod {one:.1f}, {MANY} pods {many:.1f}, median of ratios {statistics.median(pairs):.2f}")


if __name__ == "__main__":
    main()
