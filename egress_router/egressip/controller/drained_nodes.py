"""Nodes that an operator drains, as the automatic assignment takes them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from egress_router.egressip.api import Decision, HostSubnet, address_key, network_range
from egress_router.net.icmp_probe import DrainPhase

Assignment = Mapping[str, Collection[str]]


def decide_drained(
    nodes: Mapping[str, HostSubnet],
    given: Assignment,
    drained: Mapping[str, DrainPhase],
    decide: Callable[[Mapping[str, HostSubnet]], Decision],
) -> Decision:
    """Return the decision in which drained nodes are given nothing new. One keeps what it was ``given`` while it waits
    for connections, then only what no other node can take: an address that nobody has drops traffic. ``decide`` is told
    the nodes that differ from ``nodes``.
    """

    def limited(kept: Assignment) -> dict[str, HostSubnet]:
        return {
            name: replace(nodes[name], egress_cidrs=_allowed(nodes[name], kept.get(name, ())))
            for name in drained
            if name in nodes and nodes[name].egress_cidrs
        }

    waiting = {name: ips for name, ips in given.items() if drained.get(name) is DrainPhase.WAITS}
    decision = decide(limited(waiting))
    leaving = {name: ips for name, ips in given.items() if drained.get(name) is DrainPhase.OVER}
    taken = {ip for ips in decision.assignment.values() for ip in ips}
    left = {name: [ip for ip in ips if ip not in taken] for name, ips in leaving.items()}
    return decide(limited({**waiting, **left})) if any(left.values()) else decision


def _allowed(node: HostSubnet, ips: Collection[str]) -> tuple[str, ...]:
    """Return networks with these addresses and no other, without those that the node may not be given any more."""
    ranges = [span for span in map(network_range, node.egress_cidrs) if span is not None]
    keys = {ip: address_key(ip) for ip in ips}
    return tuple(
        f"{ip}/{128 if ':' in ip else 32}"
        for ip in sorted(ips)
        if (key := keys[ip]) is not None and any(first <= key <= last for first, last in ranges)
    )
