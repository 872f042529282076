"""From the addresses that should serve to HAProxy's servers, and the runtime commands that lead from one to the other.

A backend's servers are *slots*: ``ipv4-1``, ``ipv4-2``, … ``ipv6-1``, …. A slot's family never changes because its
source address is fixed when it is made, and HAProxy does not connect an IPv6 server from an IPv4 source. Slots are
added as an answer grows and reused as it changes; none is deleted, so a connection never loses its server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from egress_router.model.addresses import Address, Family, family_of
from egress_router.model.dns_proxy import Destination


@dataclass(frozen=True, slots=True)
class Server:
    """A slot as HAProxy has it. ``ready`` is false for one in maintenance: it gets no new connections."""

    name: str
    address: Address
    ready: bool = True


def backend_name(destination: Destination) -> str:
    """Return the name of a line's backend."""
    return f"to-{destination.port}"


def slot_name(family: Family, number: int) -> str:
    """Return the name of a family's n-th slot."""
    return f"ipv{family.value}-{number}"


def family_of_slot(name: str) -> Family | None:
    """Return the family of a slot name; None when the server is not one of ours."""
    return next((family for family in Family if name.startswith(slot_name(family, 0)[:-1])), None)


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


def initial_servers(addresses: Iterable[Address]) -> tuple[Server, ...]:
    """Return the slots of a fresh backend."""
    counts = dict.fromkeys(Family, 0)
    servers: list[Server] = []
    for address in addresses:
        family = family_of(address)
        counts[family] += 1
        servers.append(Server(slot_name(family, counts[family]), address))
    return tuple(servers)


def commands(
    destination: Destination, wanted: Sequence[Address], actual: Sequence[Server], sources: Mapping[Family, Address]
) -> list[str]:
    """Return the runtime API commands that make ``wanted`` the addresses that get new connections, [] when they do.

    New addresses come first, so that a backend is never without a server in between; where an address goes as
    another comes, its slot changes in one step.
    """
    result: list[str] = []
    for family in Family:
        mine = [server for server in actual if family_of_slot(server.name) is family]
        addresses = [address for address in wanted if family_of(address) is family]
        result += _Slots(destination, family, mine).lead_to(addresses, sources)
    return sorted(result, key=lambda command: command.endswith("state maint"))


class _Slots:
    """The slots of one family in one backend."""

    def __init__(self, destination: Destination, family: Family, servers: Sequence[Server]) -> None:
        self._destination = destination
        self._backend = backend_name(destination)
        self._family = family
        self._servers = servers
        self._commands: list[str] = []

    def lead_to(self, wanted: Sequence[Address], sources: Mapping[Family, Address]) -> list[str]:
        """Return the commands; see ``commands``."""
        serving = {server.address: server for server in reversed(self._servers) if server.ready}
        idle = {server.address: server for server in reversed(self._servers) if not server.ready}
        staying = {serving[address].name for address in wanted if address in serving}
        missing = [address for address in wanted if address not in serving]
        for address in missing:
            if address in idle:
                # It left the answer and is back.
                self._set(idle[address], "state ready")
                staying.add(idle[address].name)
        others = [server for server in self._servers if server.name not in staying]
        free = sorted(others, key=lambda server: not server.ready)
        for address in missing:
            if address in idle:
                continue
            if free:
                self._move(free.pop(0), address)
            else:
                self._add(address, sources)
        for server in free:
            if server.ready:
                self._set(server, "state maint")
        return self._commands

    def _set(self, server: Server, what: str) -> None:
        self._commands.append(f"set server {self._backend}/{server.name} {what}")

    def _move(self, server: Server, address: Address) -> None:
        self._set(server, f"addr {address} port {self._destination.to_port}")
        if not server.ready:
            self._set(server, "state ready")

    def _add(self, address: Address, sources: Mapping[Family, Address]) -> None:
        number = len(self._servers) + 1 + sum(command.startswith("add ") for command in self._commands)
        server = Server(slot_name(self._family, number), address)
        arguments = server_arguments(self._destination, address, sources)
        self._commands.append(f"add server {self._backend}/{server.name} {arguments}")
        if self._destination.check:
            self._commands.append(f"enable health {self._backend}/{server.name}")
        self._set(server, "state ready")
