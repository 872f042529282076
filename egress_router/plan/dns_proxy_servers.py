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
    backend = backend_name(destination)
    for family in Family:
        mine = [server for server in actual if family_of_slot(server.name) is family]
        result += _family_commands(
            destination, [address for address in wanted if family_of(address) is family], mine, sources, backend, family
        )
    return sorted(result, key=lambda command: command.endswith("state maint"))


def _family_commands(
    destination: Destination,
    wanted: Sequence[Address],
    actual: Sequence[Server],
    sources: Mapping[Family, Address],
    backend: str,
    family: Family,
) -> list[str]:
    kept: set[Address] = set()
    gone: list[Server] = []
    idle: list[Server] = []
    for server in actual:
        if not server.ready:
            idle.append(server)
        elif server.address in wanted and server.address not in kept:
            kept.add(server.address)
        else:
            gone.append(server)
    missing = [address for address in wanted if address not in kept]
    # An idle slot that still has the address needs no more than to be made ready.
    ready_made = {server.address: server for server in idle}
    result: list[str] = []
    used: set[str] = set()
    for address in list(missing):
        server = ready_made.get(address)
        if server is not None:
            used.add(server.name)
            missing.remove(address)
            result.append(f"set server {backend}/{server.name} state ready")
    free = [*gone, *(server for server in idle if server.name not in used)]
    numbers = {int(server.name.partition("-")[2]) for server in actual}
    for address in missing:
        if free:
            server = free.pop(0)
            gone = [other for other in gone if other.name != server.name]
            result.append(f"set server {backend}/{server.name} addr {address} port {destination.to_port}")
            if not server.ready:
                result.append(f"set server {backend}/{server.name} state ready")
            continue
        number = next(n for n in range(1, len(numbers) + 2) if n not in numbers)
        numbers.add(number)
        slot = f"{backend}/{slot_name(family, number)}"
        result.append(f"add server {slot} {server_arguments(destination, address, sources)}")
        if destination.check:
            result.append(f"enable health {slot}")
        result.append(f"set server {slot} state ready")
    return result + [f"set server {backend}/{server.name} state maint" for server in gone]
