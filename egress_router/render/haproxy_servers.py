"""Servers in HAProxy's words: in the configuration, and as runtime commands (management.txt, 9.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from egress_router.model.addresses import Address, Family, family_of
from egress_router.model.dns_proxy import Destination
from egress_router.model.haproxy import Action, Step


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
