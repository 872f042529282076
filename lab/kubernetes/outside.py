"""Machines and pods of a cluster as hosts of the lab, so that the lab's servers, clients and captures run there."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from lab import process
from lab.addressing import Address, parse
from lab.host import Host
from lab.kubernetes.machines import Machine
from lab.worker import Worker


class MachineHost(Host):
    """The machine's network and processes; its interface is eth0."""

    def __init__(self, worker: Worker, machine: Machine, addresses: Sequence[str]) -> None:
        found: dict[int, Address] = {parse(address).version: parse(address) for address in addresses}
        super().__init__(worker, machine.name, machine.name, "eth0", found)
        self.machine = machine

    @property
    def netns_path(self) -> str:
        """The path of the namespace."""
        return self.machine.network

    @property
    def pid(self) -> int:
        """The machine's first process."""
        return self.machine.pid

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return ``argv`` as a command that runs in the machine."""
        return self.machine.command(argv)

    def ip(self, arguments: str) -> str:
        """Run one command of iproute2 here; return what it printed."""
        return process.run(self.command(["ip", *shlex.split(arguments)])).stdout

    def ip_batch(self, lines: Iterable[str]) -> None:
        """Run several in one process, stopping at the first that fails."""
        process.run(self.command(["ip", "-batch", "-"]), input="\n".join(lines) + "\n")


class PodHost(Host):
    """The network of a running pod, from the machine that runs the lab: its programs, in the pod's network."""

    def __init__(self, worker: Worker, machine: Machine, name: str, pid: int, addresses: Sequence[str]) -> None:
        """``pid`` is a process of the pod as its node sees it."""
        found: dict[int, Address] = {parse(address).version: parse(address) for address in addresses}
        super().__init__(worker, name, name, "eth0", found)
        self.machine, self.pid_on_node = machine, pid

    @property
    def netns_path(self) -> str:
        """The path of the namespace, by way of its node's /proc."""
        return f"/proc/{self.machine.pid}/root/proc/{self.pid_on_node}/ns/net"

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return ``argv`` as a command in the pod's network, with the files and processes of this machine."""
        return ["nsenter", f"--net={self.netns_path}", "--", *argv]

    def ip(self, arguments: str) -> str:
        """Run one command of iproute2 here; return what it printed."""
        return process.run(self.command(["ip", *shlex.split(arguments)])).stdout

    def ip_batch(self, lines: Iterable[str]) -> None:
        """Run several in one process, stopping at the first that fails."""
        process.run(self.command(["ip", "-batch", "-"]), input="\n".join(lines) + "\n")
