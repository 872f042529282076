"""One machine or pod of the lab: a network namespace, and what can be done in it."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import process
from lab.addressing import Address, parse
from lab.patience import patient

if TYPE_CHECKING:
    from lab.worker import Worker

RUN_NETNS = Path("/run/netns")
ETC_NETNS = Path("/etc/netns")
#: Prefix lengths of the lab's networks per family.
LENGTH = {4: 24, 6: 64}


class Host:
    """A network namespace with a name, its first addresses per family, and its first interface."""

    def __init__(self, worker: Worker, netns: str, name: str, interface: str, addresses: Mapping[int, Address]) -> None:
        self.worker = worker
        self.netns = netns
        self.name = name
        self.interface = interface
        self.addresses: dict[int, Address] = dict(addresses)
        #: The node that a pod runs on; None for machines.
        self.node: Host | None = None
        self._processes: list[subprocess.Popen[Any]] = []
        self._holder: subprocess.Popen[Any] | None = None

    def __repr__(self) -> str:
        return f"<Host {self.name} {' '.join(map(str, self.addresses.values()))}>"

    @property
    def netns_path(self) -> str:
        """The path of the namespace, for setns and for EGRESS_HOST_NETNS."""
        return str(RUN_NETNS / self.netns)

    @property
    def pid(self) -> int:
        """The pid of a process that lives in the namespace as long as the lab does (started on first use)."""
        if self._holder is None:
            self._holder = self.popen(["sleep", "infinity"])
            inode = Path(self.netns_path).stat().st_ino
            # `ip netns exec` keeps its pid, but enters the namespace a moment after it was started.
            deadline = time.monotonic() + patient(5)
            while Path(f"/proc/{self._holder.pid}/ns/net").stat().st_ino != inode:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name}: the process that holds the namespace does not enter it")
                time.sleep(0.001)
        return self._holder.pid

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return ``argv`` as a command that runs in the namespace, seeing its /sys and its resolv.conf."""
        return ["ip", "netns", "exec", self.netns, *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 10.0,
        input: str | None = None,  # noqa: A002 - the name subprocess.run has
        cwd: str | Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; EGRESS_* variables come from ``env`` alone.

        Raises process.CommandFailed with what it printed (unless ``check`` is False), subprocess.TimeoutExpired.
        """
        return process.run(self.command(argv), env=env, check=check, timeout=timeout, input=input, cwd=cwd)

    def popen(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command, in a process group of its own; the lab ends it at the latest when it goes down.

        ``options`` go to subprocess.Popen. Standard input is closed unless said otherwise.
        """
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
        started: subprocess.Popen[Any] = subprocess.Popen(self.command(argv), env=process.environment(env), **options)
        self._processes.append(started)
        return started

    def ip(self, arguments: str) -> str:
        """Run one ``ip`` command here, such as ``ip("route show")``; returns what it printed."""
        return process.run(["ip", "-n", self.netns, *shlex.split(arguments)]).stdout

    def ip_batch(self, lines: Iterable[str]) -> None:
        """Run several ``ip`` commands in one process, stopping at the first that fails."""
        process.run(["ip", "-n", self.netns, "-batch", "-"], input="\n".join(lines) + "\n")

    def nft(self, script: str) -> None:
        """Load an nft script in one transaction."""
        self.run(["nft", "-f", "-"], input=script)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Set a sysctl when ``value`` is given; returns what it is now."""
        if value is not None:
            self.worker.set_sysctls(self.netns_path, {name: value})
        return self.worker.get_sysctls(self.netns_path, [name])[name]

    def socket(self, family: int, kind: int = socket.SOCK_STREAM, proto: int = 0) -> socket.socket:
        """Return a new socket that belongs to this namespace; usable in this process like any other."""
        return self.worker.socket(self.netns_path, family, kind, proto)

    def mac(self, interface: str | None = None) -> str:
        """Return the hardware address of an interface, its first one by default."""
        words = self.ip(f"-br link show dev {interface or self.interface}").split()
        return words[2]

    def add_addresses(self, addresses: Iterable[Address | str], interface: str | None = None) -> None:
        """Give an interface more addresses, each with the prefix length of its network (/24, /64)."""
        self.ip_batch(
            f"addr replace {address}/{LENGTH[address.version]} dev {interface or self.interface}"
            + (" nodad" if address.version == 6 else "")
            for address in map(parse, addresses)
        )

    def set_resolv_conf(self, text: str) -> None:
        """Set what run and popen see as /etc/resolv.conf here."""
        self._set_etc("resolv.conf", text)

    def set_hosts(self, text: str) -> None:
        """Set what run and popen see as /etc/hosts here."""
        self._set_etc("hosts", text)

    def _set_etc(self, name: str, text: str) -> None:
        folder = ETC_NETNS / self.netns
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def end_processes(self) -> None:
        """End what popen started; the namespace may still hold daemons that left their parent."""
        for started in reversed(self._processes):
            process.end(started, grace=0.5)
        self._processes.clear()
        self._holder = None
