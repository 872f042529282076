"""Addresses that stay where they are, whatever the balance: those that `migrate egressip` has written. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from egress_router.egressip.api import ClusterState, Decision, HostSubnet, address_key


def staying(state: ClusterState, leaving: Collection[str]) -> dict[str, str]:
    """Return the node of each address that stays: not of nodes that are down or drained (``leaving``)."""
    return {ip: node for ip, node in state.staying.items() if node in state.nodes and node not in leaving}


def with_staying(nodes: Mapping[str, HostSubnet], stay: Mapping[str, str]) -> dict[str, HostSubnet]:
    """Return the nodes as they are decided on: an address that stays is held as one that the node lists itself, which
    takes no part in the balance.
    """
    found = dict(nodes)
    for ip, node in stay.items():
        found[node] = replace(found[node], egress_ips=(*found[node].egress_ips, ip))
    return found


def joined(decision: Decision, stay: Mapping[str, str]) -> Decision:
    """Return the decision with the addresses that stay among those that are assigned."""
    if not stay:
        return decision
    given = {node: list(ips) for node, ips in decision.assignment.items()}
    for ip, node in stay.items():
        given.setdefault(node, []).append(ip)
    ordered = {node: tuple(sorted(ips, key=lambda ip: address_key(ip) or 0)) for node, ips in sorted(given.items())}
    return replace(decision, assignment=ordered)
