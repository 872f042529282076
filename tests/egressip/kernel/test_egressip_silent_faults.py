"""Faults that once ended pods' traffic without a word: for each, the time until traffic is back and until it is told.

On demand: it takes minutes, and what it prints is the table in docs/egress-ips.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest

from egress_router.egressip.node.state import PROBE_PORT, TUNNEL, TUNNEL_PORT
from egress_router.egressip.node.tunnel import tunnel_mac
from lab import Host, Lab, NoReply
from tests.egressip.kernel.egress_cluster import WORLDS, EgressCluster, World, one_client, two_holders
from tests.egressip.kernel.egress_scene import overlay

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.timeout(900)]

#: Longer than this nothing may stay silent; seconds.
SILENT = 2.0
Step = Callable[[], object]


@dataclass(frozen=True)
class Fault:
    """What happens, and how it is undone."""

    name: str
    node: Host
    do: Step
    undo: Step = lambda: None


class Town:
    """A pod on the first node that leaves by ``holder``, and could by another one."""

    def __init__(self, cluster: EgressCluster) -> None:
        self.cluster = cluster
        self.pod, self.first, self.second, self.holder = one_client(cluster)
        self.near = cluster.lab.nodes[0]
        self.far = cluster.pod("far", "plain", cluster.lab.nodes.index(self.holder))
        self.times: list[tuple[str, float, float]] = []

    def answered(self) -> bool:
        try:
            return self.cluster.source_of(self.pod, timeout=0.05) in (self.first, self.second)
        except NoReply:
            return False

    def told(self, node: Host, before: tuple[int, ...]) -> bool:
        """Return whether the status has a problem or a holder that is not up, or a figure has counted something."""
        for one in {self.near.name: self.near, node.name: node}.values():
            answer = self.cluster.ask(one)
            # So many faults in a row are a problem of their own; it tells of those before.
            problems = [text for text in answer["problems"] if "again and again" not in text]
            if problems or not answer["ready"] or set(answer["holders"].values()) - {"up"}:
                return True
        return self.counted() != before

    def counted(self) -> tuple[int, ...]:
        """Return how often the agents of the pod's node and of the holder repaired something or left a holder."""
        found = []
        for node in (self.near, self.holder):
            host = str(node.addresses[self.cluster.world.underlay])
            page = node.run(["curl", "-sg", f"http://{f'[{host}]' if ':' in host else host}:9910/metrics"], check=False)
            figures = dict(line.rsplit(" ", 1) for line in page.stdout.splitlines() if not line.startswith("#"))
            names = ("repairs_total", "failovers_total")
            found += [int(float(figures.get(f"egress_router_node_{name}", 0))) for name in names]
        return tuple(found)

    def suffer(self, fault: Fault) -> None:
        """Have the fault happen, and note how long it took until traffic was back and until somebody was told."""
        calm = self.cluster.until
        calm(lambda: self.answered() and not self.told(fault.node, self.counted()), 20)
        time.sleep(0.3)
        before = self.counted()
        start = time.monotonic()
        fault.do()
        back = told = float("inf")
        # Traffic is back when ten questions in a row have an answer; what the fault was meant to break may break late.
        row = 0
        try:
            while time.monotonic() - start < 8 and (back == float("inf") or told == float("inf")):
                if told == float("inf") and self.told(fault.node, before):
                    told = time.monotonic() - start
                asked = time.monotonic()
                row = row + 1 if self.answered() else 0
                if row == 1:
                    first = asked
                if row == 10 and back == float("inf"):
                    back = first - start
        finally:
            fault.undo()
        self.times.append((fault.name, back, told))
        print(f"| {fault.name} | {_text(back)} | {_text(told)} |")


def _text(seconds: float) -> str:
    return "never" if seconds == float("inf") else f"{seconds * 1000:.0f} ms"


def nft(node: Host, hook: str, rule: str) -> tuple[Step, Step]:
    chain = f"type filter hook {hook} priority raw - 10; policy accept;\n{rule}"
    text = f"table inet foreign {{\nchain one {{\n{chain}\n}}\n}}"
    return partial(node.nft, text), partial(node.nft, "delete table inet foreign")


def run(node: Host, *commands: str) -> Step:
    def do() -> None:
        for command in commands:
            node.run(command.split())

    return do


def faults(town: Town) -> Iterator[Fault]:
    near, holder, cluster = town.near, town.holder, town.cluster
    host_ip = str(holder.addresses[cluster.world.underlay])
    yield Fault("policy rules deleted", near, run(near, "ip -4 rule del pref 90", "ip -6 rule del pref 90"))
    yield Fault("routes flushed", near, run(near, "ip route flush proto 147 table all"))
    yield Fault("tunnel down", near, run(near, f"ip link set {TUNNEL} down"))
    yield Fault("tunnel down and up", near, run(near, f"ip link set {TUNNEL} down", f"ip link set {TUNNEL} up"))
    yield Fault("tunnel deleted, pod's node", near, run(near, f"ip link del {TUNNEL}"))
    yield Fault("tunnel deleted, holder", holder, run(holder, f"ip link del {TUNNEL}"))
    yield Fault("neighbours flushed", near, run(near, f"ip neigh flush dev {TUNNEL} nud permanent"))
    fdb = f"bridge fdb del {tunnel_mac(host_ip)} dev {TUNNEL} dst {host_ip}"
    yield Fault("forwarding entry deleted", near, run(near, fdb))
    yield Fault("tunnel's address flushed", holder, run(holder, f"ip addr flush dev {TUNNEL}"))
    yield Fault("tunnel's rp_filter strict", holder, partial(holder.sysctl, f"net.ipv4.conf.{TUNNEL}.rp_filter", 1))
    for where, node in (("pod's node", near), ("holder", holder)):
        yield Fault(f"nft table deleted, {where}", node, partial(node.nft, "delete table inet egress_node"))
    yield Fault("pods' paths flushed", near, partial(near.nft, "flush map inet egress_node path4"))
    yield Fault("all nft rules flushed, holder", holder, partial(holder.nft, "flush ruleset"))
    yield Fault("egress IP deleted", holder, run(holder, f"ip addr del {town.first}/32 dev eth0"))
    yield Fault("holder's tunnel port closed", holder, *nft(holder, "input", f"udp dport {TUNNEL_PORT} drop"))
    yield Fault("full packets lost", holder, *nft(holder, "input", f"udp dport {TUNNEL_PORT} meta length > 1400 drop"))
    closed = nft(holder, "input", f"udp dport {PROBE_PORT} drop")
    yield Fault("agents' port closed", holder, *closed)
    for where, node in (("pod's node", near), ("holder", holder)):
        accept = "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        undo = run(node, "iptables -P FORWARD ACCEPT", "iptables -F FORWARD")
        yield Fault(f"FORWARD policy drop, {where}", node, run(node, accept, "iptables -P FORWARD DROP"), undo)
        legacy, no_legacy = (step.replace("iptables", "iptables-legacy") for step in (accept, "iptables -F FORWARD"))
        undo = run(node, "iptables-legacy -P FORWARD ACCEPT", no_legacy)
        drop = run(node, legacy, "iptables-legacy -P FORWARD DROP")
        yield Fault(f"FORWARD policy drop, iptables-legacy, {where}", node, drop, undo)
    reject = run(holder, "iptables -A FORWARD -i eth0 -j ACCEPT", "iptables -A FORWARD -j REJECT")
    yield Fault("FORWARD rejects all, holder", holder, reject, run(holder, "iptables -F FORWARD"))
    yield Fault("holder's power cut", holder, partial(cluster.lab.unplug, holder), partial(cluster.lab.plug, holder))


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_no_fault_stays_silent(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(nodes=3, shape=world.shape))
        town = Town(two_holders(lab, tmp_path_factory.mktemp("faults") / "state", world))
        allowed = {town.first, town.second}
        print(f"\n{world}\n| fault | traffic is back after | told after |\n|---|---|---|")
        with lab.capture() as capture:
            for fault in faults(town):
                town.suffer(fault)
            with overlay((town.pod, town.near), (town.far, town.holder), 4):
                strict = partial(town.near.sysctl, "net.ipv4.conf.overlay.rp_filter", 1)
                town.suffer(Fault("overlay's rp_filter strict", town.near, strict))
            assert capture.outgoing(), "positive control"
            assert not capture.leaks(allowed=allowed), "nothing leaves with another source"
        silent = [name for name, back, told in town.times if min(back, told) > SILENT]
        lasting = [name for name, back, _ in town.times if back > 3 * SILENT and "rejects" not in name]
        print(f"{len(silent)} of {len(town.times)} silent for more than {SILENT:g} s: {silent}")
        assert not silent
        assert not lasting
