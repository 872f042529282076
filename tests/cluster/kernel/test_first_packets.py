"""A pod's first packet is right: agents that hear of pods from containerd before they start, and such that do not."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from typing import Any

import pytest

from lab import client
from lab.addressing import parse
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.images import BUSYBOX
from lab.kubernetes.plan import Plan
from tests.cluster.kernel.installation import ECHO, FIRST, NODES, EgressIPs

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(1500),
    pytest.mark.parametrize("cluster", [Plan()], indirect=True, ids=["bridge"]),
]

#: New pods; the figures in the docs were seen with FIRST_PACKETS=500 in the environment.
PODS = int(os.environ.get("FIRST_PACKETS", "100"))
#: So many start at once.
AT_ONCE = 10
#: The one packet of a pod tells which pod it is: by the length of an echo request, by the port of a SYN.
SMALLEST, PORTS = 100, 10000
ECHO_REQUEST = 8
Sent = tuple[str, str, str]


def pod(number: int, name: str, node: str, space: str) -> dict[str, Any]:
    """Return a pod that sends one packet before it does anything else, and ends."""
    ping = f"ping -q -c 1 -W 1 -s {SMALLEST + number} {ECHO} >/dev/null"
    # Ended before it would be sent again, a second later.
    syn = f"nc {ECHO} {PORTS + number} </dev/null & usleep 500000; kill $! 2>/dev/null"
    command = ["sh", "-c", f"{syn if number % 3 == 0 else ping}; exit 0"]
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": command}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": space, "labels": {"round": "first"}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [container],
        },
    }


class FirstPackets(EgressIPs):
    """The installation, whose agents hear of pods from the API alone at first."""

    def switch(self) -> None:
        """Have agents hear of pods from containerd as well."""
        self.components = ("nri",)
        self.install()
        self.until("all agents hear of pods", lambda: all(self.metric(n, "runtime_connected") for n in NODES), 30)

    def metric(self, node: str, name: str) -> float:
        """Return a figure of a node's agent, without labels."""
        asked = f"GET /metrics HTTP/1.0\r\nHost: {node}\r\n\r\n"
        page = client.tcp(self.cluster.host(node), parse(NODES[node]), 9910, asked, 5.0)
        found = re.search(rf"^egress_router_node_{name} (\S+)$", page, re.MULTILINE)
        assert found, f"{node} has no {name}"
        return float(found[1])

    def calls(self, node: str) -> tuple[float, float]:
        """Return the seconds that all calls of a node's runtime took, and their number."""
        return self.metric(node, "runtime_call_seconds_sum"), self.metric(node, "runtime_call_seconds_count")

    def agent(self, node: str) -> tuple[int, str]:
        """Return the process of a node's agent, as the node sees it, and its pod."""
        pods = json.loads(self.kubectl("get", "pods", "-l", "app.kubernetes.io/component=node", "-o", "json"))["items"]
        (found,) = [one["metadata"] for one in pods if one["spec"]["nodeName"] == node]
        (pid,) = self.cluster.machines.by_name[node].run(["pgrep", "-f", "node --source kubernetes"]).split()
        return int(pid), found["name"]

    def start_all(self, label: str, count: int) -> Counter[Sent]:
        """Start so many pods on all nodes; return what became of their first packets: where, whose, how."""
        holder = self.holders()[FIRST]
        names = list(NODES)
        expected: dict[int, tuple[str, str, str]] = {}
        with self.cluster.capture() as seen:
            for first in range(0, count, AT_ONCE):
                made = []
                for number in range(first, min(first + AT_ONCE, count)):
                    node, space = names[number % len(names)], "other" if number % 5 == 4 else "shop"
                    where = "holder" if node == holder else "other node"
                    expected[number] = (where, space, FIRST if space == "shop" else NODES[node])
                    made.append(pod(number, f"{label}-{number}", node, space))
                self.cluster.apply(made)
                self.until("they have ended", self.all_ended, 120)
            for space in ("shop", "other"):
                self.cluster.kubectl("-n", space, "delete", "pod", "-l", "round=first", "--wait=false")
            packets = [one for one in seen.received() if str(one.dst) == ECHO]
        found: dict[int, list[str]] = {}
        for packet in packets:
            if packet.proto == "icmp" and packet.icmp_type == ECHO_REQUEST:
                found.setdefault(packet.length - 14 - 20 - 8 - SMALLEST, []).append(str(packet.src))
            elif packet.proto == "tcp" and packet.tcp_flags == "S" and packet.dport is not None:
                found.setdefault(packet.dport - PORTS, []).append(str(packet.src))
        became: Counter[Sent] = Counter()
        for number, (where, space, source) in expected.items():
            sources = found.get(number, [])
            assert len(sources) <= 1, f"pod {number} has sent {sources}"
            became[where, space, "lost" if not sources else "right" if sources == [source] else "wrong"] += 1
        return became

    def all_ended(self) -> bool:
        """Return whether no pod of this round runs any more."""
        return all(
            json.loads(
                self.cluster.kubectl(
                    *("-n", space, "get", "pods", "-l", "round=first", "-o", "json"),
                    *("--field-selector", "status.phase!=Succeeded,status.phase!=Failed"),
                )
            )["items"]
            == []
            for space in ("shop", "other")
        )


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> FirstPackets:
    cluster.load_products()
    cluster.echo(ECHO, tcp=[80])
    found = FirstPackets(cluster)
    found.egress_ip(FIRST)
    return found


def of(became: Counter[Sent], how: str, *where: str) -> int:
    return sum(count for (place, _, what), count in became.items() if what == how and place in (where or (place,)))


def test_no_first_packet_is_lost_where_agents_hear_of_pods_from_the_runtime(installed: FirstPackets) -> None:
    """Packets first, of pods on the holder and elsewhere, selected and not; never one with another source."""
    before = installed.start_all("before", min(PODS, 60))
    print(f"by the API alone: {dict(before)}")
    assert of(before, "wrong") == 0
    assert of(before, "lost") > 0, "or nothing is shown by the other half"
    installed.switch()
    calls = {node: installed.calls(node) for node in NODES}
    after = installed.start_all("after", PODS)
    added = {}
    for node, (seconds, count) in calls.items():
        now = installed.calls(node)
        added[node] = round(1000 * (now[0] - seconds) / (now[1] - count), 1)
    late = {node: installed.metric(node, "runtime_late_pods_total") for node in NODES}
    print(f"with NRI: {dict(after)}; milliseconds a call: {added}; late: {late}")
    assert of(after, "wrong") == 0
    assert of(after, "lost") == 0


def test_pods_start_although_the_agent_hangs(installed: FirstPackets) -> None:
    """The runtime waits two seconds for the first, and for none after it; what they send is dropped."""
    node = "node-1"
    pid, name = installed.agent(node)
    machine = installed.cluster.machines.by_name[node]

    def started(label: str) -> float:
        began = time.monotonic()
        running = pod(0, label, node, "shop")
        running["spec"]["containers"][0]["command"] = ["sleep", "2147483647"]
        installed.cluster.apply([running])
        get = ("-n", "shop", "get", "pod", label, "-o", "jsonpath={.status.phase}")
        installed.until("it runs", lambda: installed.cluster.kubectl(*get) == "Running", 30)
        return time.monotonic() - began

    usual = started("usual")
    machine.run(["kill", "-STOP", str(pid)])
    try:
        took = [started(f"hanging-{number}") for number in range(3)]
    finally:
        machine.run(["kill", "-CONT", str(pid)])
    print(f"usually {usual:.2f} s, while the agent hangs {[round(one, 2) for one in took]}")
    assert took[0] < usual + 2.5
    assert max(took[1:]) < usual + 1.0, "the runtime has left the agent out"
    installed.until("it is heard again", lambda: installed.metric(node, "runtime_connected") == 1, 30)
    assert installed.agent(node) == (pid, name), "it was not started anew"
    installed.cluster.kubectl("-n", "shop", "delete", "pod", "-l", "round=first", "--now")
    for number in range(3):
        host = installed.cluster.pod(f"client-{node}", "shop")
        assert installed.source(host) == FIRST, number
    space = installed.kubectl("exec", name, "--", "egress-router", "node", "status")
    assert "the container runtime tells of pods before they start" in space


def test_a_restarted_runtime_is_found_again(installed: FirstPackets) -> None:
    """containerd's socket is made anew; its pods run on, and new ones are told of."""
    node = "node-2"
    installed.cluster.node(node).containerd.stop()
    installed.until("it is missed", lambda: installed.metric(node, "runtime_connected") == 0, 20)
    installed.cluster.node(node).start_containerd()
    installed.until("it is found again", lambda: installed.metric(node, "runtime_connected") == 1, 30)
    became = installed.start_all("again", 12)
    print(f"after a restart of containerd: {dict(became)}")
    assert of(became, "wrong") == 0
    assert of(became, "lost") == 0
