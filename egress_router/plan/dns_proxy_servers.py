"""From the addresses that should serve, and the slots that HAProxy has, to the steps in between.

Slots are added as an answer grows and reused as it changes. None is deleted: there are as many as the largest answer
had addresses, and a connection never loses its server.
"""

from __future__ import annotations

from collections.abc import Sequence

from egress_router.model.addresses import Address, Family, family_of
from egress_router.model.haproxy import Action, Server, Step, family_of_slot, slot_name


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
