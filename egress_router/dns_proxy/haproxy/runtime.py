"""HAProxy's servers in its own words, in the configuration and as runtime commands, and the stats socket that takes
those (management.txt, chapter 9.3).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from egress_router.config.values import Address, Family, family_of
from egress_router.dns_proxy.destinations import Destination
from egress_router.dns_proxy.haproxy.slots import Action, Server, Step, family_of_slot


def backend_name(destination: Destination) -> str:
    """Return the name of a line's backend."""
    return f"to-{destination.port}"


def endpoint(address: Address, port: int) -> str:
    """Return ``ADDRESS:PORT`` as HAProxy reads it."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def server_arguments(destination: Destination, address: Address, sources: Mapping[Family, Address]) -> str:
    """Return what follows a server's name, in the configuration and in ``add server`` alike."""
    words = [endpoint(address, destination.to_port)]
    source = sources.get(family_of(address))
    if source is not None:
        # Port 0 is the kernel's choice; without a port an IPv6 address would be cut at its last colon.
        words += ["source", endpoint(source, 0)]
    if destination.check:
        words += ["check", "inter", "2s"]
    return " ".join(words)


def runtime_commands(destination: Destination, steps: Iterable[Step], sources: Mapping[Family, Address]) -> list[str]:
    """Return the commands that carry out ``steps``, in order."""
    commands: list[str] = []
    for step in steps:
        slot = f"{backend_name(destination)}/{step.server.name}"
        address = step.server.address
        if step.action is Action.ADD:
            commands.append(f"add server {slot} {server_arguments(destination, address, sources)}")
            if destination.check:
                commands.append(f"enable health {slot}")
        elif step.action is Action.MOVE:
            commands.append(f"set server {slot} addr {address} port {destination.to_port}")
            if destination.check:
                # What the checks found out was about the other address.
                commands.append(f"set server {slot} health up")
        if step.action in (Action.ADD, Action.READY):
            commands.append(f"set server {slot} state ready")
        elif step.action is Action.REST:
            commands.append(f"set server {slot} state maint")
    return commands


#: HAProxy reads a line of commands into one buffer of 16 KiB.
COMMANDS_PER_LINE = 40
TIMEOUT_SECONDS = 3.0


class RuntimeSocket:
    """The stats socket of one HAProxy process. Every call is a connection; OSError when nobody answers in ``timeout``
    seconds.
    """

    def __init__(self, path: Path, timeout: float = TIMEOUT_SECONDS) -> None:
        self.path = path
        self._timeout = timeout

    def send(self, commands: Sequence[str]) -> str:
        """Run ``commands`` in order; return what HAProxy answered."""
        answers = []
        for first in range(0, len(commands), COMMANDS_PER_LINE):
            some = commands[first : first + COMMANDS_PER_LINE]
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self.path))
                connection.sendall((";".join(some) + "\n").encode())
                answers.append(b"".join(iter(lambda: connection.recv(65536), b"")))  # used at once
        return b"".join(answers).decode("utf-8", "replace")

    def info(self) -> dict[str, str]:
        """Return what ``show info`` says, by the names it has there."""
        lines = (line.partition(":") for line in self.send(["show info"]).splitlines())
        return {key: value.strip() for key, _, value in lines}

    def pid(self) -> int | None:
        """Return the process id of the HAProxy that answers."""
        pid = self.info().get("Pid")
        return None if pid is None else int(pid)

    def servers(self, backend: str = "") -> dict[str, list[Server]]:
        """Return the servers of every backend that has any, or of one backend."""
        found: dict[str, list[Server]] = {}
        for name, server in _servers(self.send([f"show servers state {backend}".strip()])):
            found.setdefault(name, []).append(server)
        return found


def _servers(text: str) -> Iterator[tuple[str, Server]]:
    """Read ``show servers state``, format version 1."""
    columns: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if line.startswith("# "):
            columns = {name: index for index, name in enumerate(words[1:])}
        elif columns and len(words) >= len(columns) and family_of_slot(words[columns["srv_name"]]) is not None:
            address = ipaddress.ip_address(words[columns["srv_addr"]])
            # Any bit of the administrative state is some kind of maintenance or drain.
            ready = words[columns["srv_admin_state"]] == "0"
            yield words[columns["be_name"]], Server(words[columns["srv_name"]], address, ready)
