"""Router pods to measure: ours by backend, and the shell script's; each forwards a range of ports to one service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.cost import command_cost
from bench.harness import Run
from bench.load import SERVICE
from lab import Host, Lab

SHELL = str(Path(__file__).parent / "baselines/egress-router.sh")
FIRST_PORT = 20_000
BACKENDS = ("nftables", "iptables")
#: Arms by the command that makes the router.
SCRIPT, SCRIPT_QUIET = "shell script", "shell script without arping"
#: 192.0.2.100 and on are free for EGRESS_SOURCE.
FIRST_SOURCE = 100


@dataclass(slots=True)
class RouterPods:
    """Makes router pods in a lab, each with an EGRESS_SOURCE of its own; files go to ``directory``."""

    lab: Lab
    directory: Path
    run: Run
    made: int = 0

    def pod(self) -> tuple[Host, str]:
        """Return a pod with a bare macvlan0, and its address to be."""
        self.made += 1
        pod = self.lab.pod(f"r{self.made}")
        self.lab.macvlan(pod)
        return pod, self.source

    @property
    def source(self) -> str:
        """The EGRESS_SOURCE of the pod that was made last."""
        return f"192.0.2.{FIRST_SOURCE + self.made}"

    def make(self, arm: str, ports: Iterable[tuple[int, int]], fallback: str = "") -> tuple[Host, dict[str, float]]:
        """Return a router pod that sends pairs of (its port, SERVICE's port) on, and what setting it up cost."""
        pod, source = self.pod()
        rules = self.directory / f"rules-{self.made}"
        lines = "".join(f"{port} tcp {SERVICE} {to}\n" for port, to in ports)
        rules.write_text(lines + (f"{fallback}\n" if fallback else ""))
        env = {"EGRESS_SOURCE": source, "EGRESS_GATEWAY": "192.0.2.1", "EGRESS_DESTINATION_FILE": str(rules)}
        return pod, command_cost(pod, *self.command(arm, env))

    def command(self, arm: str, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return command and environment of an arm: SCRIPT, SCRIPT_QUIET, or a backend of ours."""
        if arm in (SCRIPT, SCRIPT_QUIET):
            return [SHELL], {**env, "BASELINE_ANNOUNCE": "no" if arm == SCRIPT_QUIET else "yes"}
        # No duplicate detection: the script has none. It is three probes with waits between, whatever the size.
        own = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DAD": "off", "EGRESS_NAT_BACKEND": arm}
        return [*self.run.program, "init"], {**env, **own}


def many(count: int, to: int = 80) -> list[tuple[int, int]]:
    """Return ``count`` redirected ports; the last is the one to ask (see ``last``)."""
    return [(port, to) for port in range(FIRST_PORT, FIRST_PORT + count)]


def last(count: int) -> int:
    """Return the last port of ``many``."""
    return FIRST_PORT + count - 1


def forget_connections(*hosts: Host) -> None:
    """Empty connection tracking: what the turn before has left must not slow this one."""
    for host in hosts:
        host.run(["conntrack", "-F"], check=False)
