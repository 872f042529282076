"""How long an egress IP takes to move to another node, and what is lost meanwhile."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from bench.load import CHILDREN, SERVICE
from lab import Host, Lab
from lab.process import end
from tests.egressip.kernel.egress_cluster import EgressCluster

IPS = ("192.0.2.45", "192.0.2.54")
EVERY = 0.002
PORT = 53
#: Seconds for what takes less than one when all is well.
PATIENCE = 30.0


class Moving:
    """Three nodes, a namespace with two egress IPs on two of them, and a pod that talks to the outside: on the node
    that holds none, or on another.
    """

    def __init__(self, lab: Lab, directory: Path, place: int = 0) -> None:
        self.lab = lab
        lab.echo(SERVICE, udp=PORT)
        self.cluster = EgressCluster(lab, directory / "state")
        self.cluster.namespace("toto", *IPS)
        for node, ip in zip(lab.nodes[1:], IPS, strict=True):
            self.cluster.holds(node, ip)
        self.client = self.cluster.pod("client", "toto", place)
        self.cluster.start()
        self.cluster.settle()
        self.first = self.cluster.source_of(self.client)
        self.second = IPS[1 - IPS.index(self.first)]

    @property
    def holder(self) -> Host:
        """The node whose address the client leaves with."""
        return self.lab.nodes[1 + IPS.index(self.first)]

    def cut(self) -> dict[str, float]:
        """Cut the holder's power: seconds until an answer to the other source, and packets lost."""
        return self._watch(lambda: self.lab.unplug(self.holder), lambda: self.lab.plug(self.holder))

    def drain(self) -> dict[str, float]:
        """Hand over by `egress-router node drain`."""
        return self._watch(
            lambda: self.cluster.ask(self.holder, "drain"), lambda: self.cluster.ask(self.holder, "undrain")
        )

    def _sender(self) -> subprocess.Popen[str]:
        """Start datagrams whose flow leaves with the first address. Raises TimeoutError when none does."""
        command = [sys.executable, "-I", "-S", str(CHILDREN / "datagrams.py"), SERVICE, str(PORT), str(EVERY)]
        for _ in range(10):
            sender = self.client.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert sender.stdout is not None
            if select.select([sender.stdout], [], [], 10)[0] and sender.stdout.readline().strip() == self.first:
                return sender
            # A flow that began while the address came back stays where it began.
            end(sender)
            time.sleep(0.5)
        raise TimeoutError(f"no flow leaves with {self.first}:\n{self.cluster.text()[-2000:]}")

    def _watch(self, leave: Callable[[], object], come_back: Callable[[], object]) -> dict[str, float]:
        sender = self._sender()
        time.sleep(0.2)
        with self.lab.capture() as capture:
            began = time.monotonic()
            leave()
            self.cluster.until(lambda: self.cluster.source_of(self.client, timeout=0.1) == self.second, PATIENCE)
            # Long enough to tell a gap from a flow that is gone.
            time.sleep(1.0)
            seen = json.loads(sender.communicate("", timeout=10)[0])
            leaked = len(capture.leaks(allowed=set(IPS)))
        come_back()
        self.cluster.until(lambda: self.cluster.source_of(self.client, timeout=0.1) == self.first, PATIENCE)
        self.cluster.settle(timeout=PATIENCE)
        return {**figures(seen, began, self.first), "leaked": float(leaked)}


def figures(seen: list[tuple[float, float | None, str]], began: float, first: str) -> dict[str, float]:
    """Return ``moved``: seconds from ``began`` to the first answer to another source, ``silent``: the longest time
    without an answer, and ``lost``: datagrams without one. What never came back counts until the last one was sent.
    Raises ValueError when nothing was answered before ``began``.
    """
    answered = [(answer, source) for _, answer, source in seen if answer is not None]
    if not any(answer < began and source == first for answer, source in answered):
        raise ValueError("nothing was answered before the change")
    last = seen[-1][0]
    times = [*sorted(answer for answer, _ in answered), last]
    silent = max(later - earlier for earlier, later in pairwise(times))
    moved = min((answer for answer, source in answered if source != first), default=last) - began
    return {"moved": moved, "silent": silent, "lost": float(sum(answer is None for _, answer, _ in seen))}
