"""How long a pod waits for ``init``, and what it costs, beside a shell script that does the same steps."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from bench.figures import Check, Ratio, Value
from bench.harness import Arm, Run
from bench.load import SERVICE
from bench.question import Metric, Question, SizeTable
from bench.router import BACKENDS, SCRIPT, SCRIPT_QUIET, RouterPods, last, many
from lab import Lab
from lab.addressing import MAX_PODS_PER_NODE

ARMS = (*BACKENDS, SCRIPT, SCRIPT_QUIET)


class Pods:
    """Fresh router pods; a lab has room for some, then it is replaced by a new one."""

    def __init__(self, run: Run, directory: Path) -> None:
        self.run, self.directory = run, directory
        self.lab: Lab | None = None
        self.routers: RouterPods

    def sample(self, arm: str, size: int) -> dict[str, float]:
        """Set a new pod up; it counts once a client gets through its last port."""
        if self.lab is None or len(self.lab.pods) == MAX_PODS_PER_NODE:
            self.close()
            self.lab = Lab(nodes=1)
            self.lab.up()
            self.lab.echo(SERVICE, tcp=80)
            self.client = self.lab.pod("client")
            self.routers = RouterPods(self.lab, self.directory, self.run)
        pod, cost = self.routers.make(arm, many(size))
        answer = self.lab.tcp(self.client, pod.addresses[4], last(size))
        if answer.split()[0] != self.routers.source:
            raise RuntimeError(f"{arm}: the service saw {answer}")
        # Only the one that is set up at the moment shall have macvlan0 up on the node's interface.
        pod.ip("link del macvlan0")
        return cost

    def close(self) -> None:
        """Take the lab down."""
        if self.lab is not None:
            self.lab.down()


def measure(run: Run) -> None:
    """Set up pods of every size in every way."""
    with tempfile.TemporaryDirectory() as directory:
        pods = Pods(run, Path(directory))
        # The margins of a quick run are about processor time, and arping takes none.
        ways = [arm for arm in ARMS if arm != SCRIPT or not run.quick]
        arms = [Arm(arm, partial(pods.sample, arm, size), size) for size in run.sizes for arm in ways]
        try:
            run.interleave(arms, int(run.pick(5, 2)))
        finally:
            pods.close()


QUESTION = Question(
    name="start-up",
    title="Start-up of `init`",
    size_means="destinations",
    metrics=(
        Metric("wall", "Time until it has ended", "s"),
        Metric("cpu", "Processor time, children included", "s"),
        Metric("memory", "Peak memory of the largest process", "MB"),
    ),
    tables=(
        SizeTable("wall", ARMS, SCRIPT_QUIET),
        SizeTable("cpu", ARMS, SCRIPT_QUIET, plot=False),
        SizeTable("memory", ARMS, SCRIPT_QUIET, plot=False),
    ),
    goals=(
        Check(
            Ratio("wall", "nftables", SCRIPT, 10_000, 10_000),
            "nftables, 10,000: as fast as the shell script",
            at_most=1.0,
        ),
        Check(
            Ratio("wall", "iptables", SCRIPT, 10_000, 10_000),
            "iptables, 10,000: as fast as the shell script",
            at_most=1.0,
        ),
        Check(Ratio("wall", "nftables", SCRIPT, 10, 10), "nftables, 10: as fast as the shell script", at_most=1.0),
        Check(
            Ratio("wall", "nftables", SCRIPT_QUIET, 10_000, 10_000),
            "nftables, 10,000: as fast as the shell script without arping",
            at_most=1.0,
        ),
        Check(
            Ratio("wall", "nftables", SCRIPT_QUIET, 10, 10),
            "nftables, 10: as fast as the shell script without arping",
            at_most=1.0,
        ),
        Check(Value("wall", "nftables", 10), "nftables, 10: at most 0.3 s", at_most=0.3),
        Check(Value("wall", "iptables", 10), "iptables, 10: at most 0.45 s", at_most=0.45),
        Check(Value("wall", "nftables", 10_000), "nftables, 10,000: at most 1 s", at_most=1),
        Check(Value("wall", "iptables", 10_000), "iptables, 10,000: at most 6 s", at_most=6),
        Check(Value("memory", "nftables", 10), "nftables, 10: at most 45 MB", at_most=45),
        Check(Value("memory", "iptables", 10), "iptables, 10: at most 45 MB", at_most=45),
    ),
    measure=measure,
)
