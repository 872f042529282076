"""HAProxy's servers made equal to the answers of DNS: values, runtime commands (management.txt, 9.3), and the socket
that takes them.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from egress_router.config.values import Address, Family, HostName, family_of
from egress_router.dns_proxy.destinations import Destination, DnsProxyConfig
from egress_router.errors import printable

# HAProxy's servers as the DNS proxy router uses them.
#
# A backend's servers are *slots*: ``ipv4-1``, ``ipv4-2``, … ``ipv6-1``, …. A slot's family never changes because its
# source address is fixed when it is made, and HAProxy does not connect an IPv6 server from an IPv4 source.


@dataclass(frozen=True, slots=True)
class Server:
    """A slot. ``ready`` is false for one in maintenance: it gets no new connections and keeps those it has."""

    name: str
    address: Address
    ready: bool = True


class Action(StrEnum):
    """What can happen to a slot: made (and used), given another address, used again, no longer used."""

    ADD = "add"
    MOVE = "move"
    READY = "ready"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Step:
    """One action; ``server`` is the slot as it is afterwards."""

    action: Action
    server: Server


def slot_name(family: Family, number: int) -> str:
    """Return the name of a family's n-th slot, counted from 1."""
    return f"ipv{family.value}-{number}"


def family_of_slot(name: str) -> Family | None:
    """Return the family of a slot name; None when the server is not one of ours."""
    return next((family for family in Family if name.startswith(slot_name(family, 0)[:-1])), None)


def fresh_slots(addresses: Iterable[Address]) -> tuple[Server, ...]:
    """Return the slots of a new backend, one for each address."""
    counts = dict.fromkeys(Family, 0)
    servers: list[Server] = []
    for address in addresses:
        family = family_of(address)
        counts[family] += 1
        servers.append(Server(slot_name(family, counts[family]), address))
    return tuple(servers)


# From the addresses that should serve, and the slots that HAProxy has, to the steps in between.
#
# Slots are added as an answer grows and reused as it changes. None is deleted: there are as many as the largest answer
# had addresses, and a connection never loses its server.


def steps(wanted: Sequence[Address], actual: Sequence[Server]) -> list[Step]:
    """Return the steps that make ``wanted`` the addresses that get new connections; [] when they are.

    New addresses come first, so that a backend is never without a server in between; where an address goes as
    another comes, its slot changes in one step.
    """
    result: list[Step] = []
    for family in Family:
        slots = [server for server in actual if family_of_slot(server.name) is family]
        result += _family_steps(family, [address for address in wanted if family_of(address) is family], slots)
    return sorted(result, key=lambda step: step.action is Action.REST)


def _family_steps(family: Family, wanted: Sequence[Address], slots: Sequence[Server]) -> list[Step]:
    serving = {server.address: server for server in reversed(slots) if server.ready}
    idle = {server.address: server for server in reversed(slots) if not server.ready}
    missing = [address for address in wanted if address not in serving]
    # Idle slots that still have the address they should: it left the answer and is back.
    back = {address: idle[address] for address in missing if address in idle}
    result = [Step(Action.READY, Server(server.name, address)) for address, server in back.items()]
    staying = {serving[address].name for address in wanted if address in serving} | {s.name for s in back.values()}
    free = sorted((server for server in slots if server.name not in staying), key=lambda server: not server.ready)
    number = len(slots)
    for address in missing:
        if address in back:
            continue
        if free:
            slot = free.pop(0)
            result.append(Step(Action.MOVE, Server(slot.name, address)))
            if not slot.ready:
                result.append(Step(Action.READY, Server(slot.name, address)))
        else:
            number += 1
            result.append(Step(Action.ADD, Server(slot_name(family, number), address)))
    rest = [Step(Action.REST, Server(server.name, server.address, ready=False)) for server in free if server.ready]
    return result + rest


# Servers in HAProxy's words: in the configuration, and as runtime commands (management.txt, 9.3).


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


# HAProxy's runtime API, spoken over its stats socket (management.txt, chapter 9.3).

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


# Makes HAProxy's servers equal to the answers: read, compare, command.

log = logging.getLogger(__name__)

#: What HAProxy answers when all is well; most commands say nothing then.
_FINE = re.compile(r"New server registered\.|IP changed from .*|no need to change .*")


class ServerSync:
    """The servers of one HAProxy process."""

    def __init__(self, config: DnsProxyConfig, socket: Path) -> None:
        self._config = config
        self._socket = RuntimeSocket(socket)
        self._done: dict[int, frozenset[Address]] = {}

    def run(self, known: Mapping[HostName, Sequence[Address]], *, compare: bool = True) -> None:
        """Bring the servers of all lines with a name of ``known`` up to date.

        Without ``compare`` lines whose answer is the one of the last run are skipped. A HAProxy that does not answer is
        on its way out or in; the next run finds it, or its successor.
        """
        lines = [(item, known[item.name]) for item in self._config.destinations if item.name and item.name in known]
        if not compare:
            lines = [(item, now) for item, now in lines if self._done.get(item.port) != frozenset(now)]
        if not lines:
            return
        try:
            actual = self._socket.servers(backend_name(lines[0][0]) if len(lines) == 1 else "")
            todo: list[str] = []
            for item, addresses in lines:
                there = actual.get(backend_name(item), [])
                todo += runtime_commands(item, steps(addresses, there), self._config.sources)
            if todo:
                _report(todo, self._socket.send(todo))
            self._done.update({item.port: frozenset(addresses) for item, addresses in lines})
        except (OSError, ValueError) as error:
            self._done.clear()
            log.debug("haproxy does not answer: %s", error)


def _report(commands: Sequence[str], answer: str) -> None:
    """Log what HAProxy refused. The next comparison of all servers, within half a minute, tries again."""
    complaints = [line for line in answer.splitlines() if line.strip() and not _FINE.match(line.strip())]
    if complaints:
        log.warning("haproxy: %s", printable("; ".join(complaints), 500))
    log.debug("haproxy was told: %s", "; ".join(commands))
