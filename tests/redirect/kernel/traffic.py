"""Clients that never stop sending, a watch on what leaves, and runs that are killed at a chosen step."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab import Host, Lab, Packet
from lab.addressing import Address, is_outside, parse

ROOT = Path(__file__).parents[3]
MLD_REPORT, NEIGHBOUR_SOLICITATION = 143, 135
#: Enough for every flow of a sender to send several times.
A_WHILE = 0.15

Flow = dict[str, Any]


class Program:
    """A program of this folder in a host, that takes JSON lines."""

    def __init__(self, host: Host, name: str) -> None:
        command = [sys.executable, "-m", f"tests.redirect.kernel.{name}"]
        self._process = host.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "\n", f"{name} does not start"

    def tell(self, request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def ask(self, request: Any) -> Any:
        self.tell(request)
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def client_flows(pod: Host, ports: Iterable[tuple[int, str, int]]) -> list[Flow]:
    """Flows of a client to (family, kind, port) of the router: new ones all the time, and one kept per UDP port."""
    flows = []
    for family, kind, port in ports:
        flow = {"kind": kind, "address": str(pod.addresses[family]), "port": port}
        flows += [flow, {**flow, "keep": True}] if kind == "udp" else [flow]
    return flows


def own_flows(pod: Host, servers: Mapping[int, str]) -> list[Flow]:
    """Flows of the pod's own processes: unbound, bound to the pod's address, and to its interface, new and kept."""
    flows = []
    for family, server in servers.items():
        address = str(pod.addresses[family])
        ways: tuple[Flow, ...] = ({}, {"bind": address}, {"device": "eth0"}, {"bind": address, "device": "macvlan0"})
        kinds: tuple[Flow, ...] = ({"kind": "tcp"}, {"kind": "udp"}, {"kind": "udp", "keep": True})
        flows += [{"address": server, "port": 7, **kind, **way} for way in ways for kind in kinds]
    return flows


class Watch:
    """Everything that leaves a node, and that a pod there sends by its cluster interface, from now on.

    A leak is a packet from an egress interface with another source than EGRESS_SOURCE (link-local ones included; the
    unspecified address only in duplicate detection and multicast reports), and a packet that goes, or tries to go, to
    the outside by the cluster interface. Clients talk to the router alone, so nothing of theirs goes outside.
    """

    def __init__(self, lab: Lab, pod: Host, allowed: Iterable[str]) -> None:
        assert pod.node is not None
        self.allowed: set[Address] = {parse(item) for item in allowed}
        self._machines = {host.mac() for host in lab.hosts if host not in (*lab.pods, lab.lan, lab.services)}
        self._node_mac, self._pod_mac = pod.node.mac(), pod.mac()
        self._node, self._pod = lab.capture(pod.node), lab.capture(pod)

    def clear(self) -> None:
        """Forget the packets until now."""
        self._node.clear()
        self._pod.clear()

    def egress(self) -> list[Packet]:
        """Return what left by an egress interface: frames on the node's NIC that no machine of the LAN sent."""
        return [packet for packet in self._node.packets if packet.src_mac not in self._machines]

    def by_cluster(self) -> list[Packet]:
        """Return what left, or was sent by the pod to leave, by the cluster interface."""
        by_node = [p for p in self._node.packets if p.src_mac == self._node_mac and _outside(p)]
        return by_node + [p for p in self._pod.packets if p.src_mac == self._pod_mac and _outside(p)]

    def leaks(self) -> list[Packet]:
        """Return all leaks until now."""
        return [packet for packet in self.egress() if not self._fine(packet)] + self.by_cluster()

    def assert_none(self, what: str) -> None:
        """Check that nothing has leaked, and that something has left at all; then forget it."""
        time.sleep(A_WHILE)
        leaks = self.leaks()
        assert not leaks, f"{what}: {len(leaks)} leaks\n" + "\n".join(map(str, leaks[:40]))
        left = {packet.src for packet in self.egress() if _outside(packet)}
        assert left == self.allowed, f"{what}: not every source was seen to leave, which proves nothing: {left}"
        self.clear()

    def _fine(self, packet: Packet) -> bool:
        if packet.proto == "arp":
            return packet.src in self.allowed or str(packet.src) == "0.0.0.0"
        if packet.src is not None and packet.src.is_unspecified:
            return packet.icmp_type in (MLD_REPORT, NEIGHBOUR_SOLICITATION)
        return packet.src in self.allowed


def _outside(packet: Packet) -> bool:
    return packet.proto != "arp" and packet.dst is not None and is_outside(packet.dst)
