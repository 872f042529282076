"""HAProxy's servers as the DNS proxy router uses them.

A backend's servers are *slots*: ``ipv4-1``, ``ipv4-2``, … ``ipv6-1``, …. A slot's family never changes because its
source address is fixed when it is made, and HAProxy does not connect an IPv6 server from an IPv4 source.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from egress_router.model.addresses import Address, Family, family_of


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
