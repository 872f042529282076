"""HAProxy's servers as slots, and the steps from those that it has to the addresses that should serve.

A backend's slots are ``ipv4-1``, ``ipv4-2``, … ``ipv6-1``, …. A slot's family never changes because its source address
is fixed when it is made, and HAProxy does not connect an IPv6 server from an IPv4 source. Slots are added as an answer
grows and reused as it changes. None is deleted: there are as many as the largest answer had addresses, and a connection
never loses its server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from egress_router.config.values import Address, Family, family_of


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
