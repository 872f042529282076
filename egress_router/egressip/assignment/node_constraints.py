"""What follows from one node's object alone, whatever the rest of the cluster looks like. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from egress_router.egressip.api import (
    HostSubnet,
    address_key,
    address_text,
    host_range,
    length_hint,
    network_range,
    pod_ranges,
)
from egress_router.errors import printable

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class NodeConstraints:
    """``listed`` are the well-formed egress IPs in the object's order, each once; ``ranges`` the addresses that
    may be assigned automatically (sorted, disjoint); ``subnets`` what its interface can hold (None: not told);
    ``capacity`` the number of addresses that may be assigned automatically (None: any).
    """

    host: int | None
    listed: tuple[int, ...]
    subnets: tuple[Range, ...] | None
    ranges: tuple[Range, ...]
    capacity: int | None
    problems: tuple[str, ...]

    def may_hold(self, key: int) -> bool:
        """Return whether the address fits a subnet of the node's outside interface, as far as the objects tell."""
        return self.subnets is None or any(first <= key <= last for first, last in self.subnets)


def node_constraints(node: HostSubnet) -> NodeConstraints:
    """Return the constraints of one HostSubnet."""
    problems: list[str] = []
    host = address_key(node.host_ip)
    if host is None:
        problems.append(f'hostIP "{printable(node.host_ip)}" is not an address of a node; it holds no egress IP')
    if node.subnet:
        parts = _ranges([part.strip() for part in node.subnet.split(",")], "subnet", problems)
        problems += [f"subnet: {part} is every address" for part in parts if not pod_ranges(part)]
    listed = tuple(dict.fromkeys(_keys(node.egress_ips, "egressIPs", problems)))
    subnets: tuple[Range, ...] | None = None
    if node.interface_subnets:
        whole = _ranges(node.interface_subnets, "interfaceSubnets", problems)
        subnets = tuple(sorted({span for text in whole if (span := host_range(text)) is not None}))
    cidrs = [
        span
        for text in _ranges(node.egress_cidrs, "egressCIDRs", problems)
        if (span := network_range(text)) is not None
    ]
    capacity = None
    if node.capacity is not None:
        by_hand = sum(1 for key in listed if subnets is None or any(a <= key <= b for a, b in subnets))
        capacity = max(0, node.capacity - by_hand)
        if by_hand > node.capacity:
            problems.append(f"egressIPs lists {by_hand} addresses, more than egressIPCapacity {node.capacity}")
    return NodeConstraints(host, listed, subnets, merged(intersections(cidrs, subnets)), capacity, tuple(problems))


def intersections(wanted: Iterable[Range], subnets: Iterable[Range] | None) -> list[Range]:
    """Return the parts of ``wanted`` inside ``subnets`` (all of it when None)."""
    if subnets is None:
        return list(wanted)
    both = [(max(a, c), min(b, d)) for a, b in wanted for c, d in subnets]
    return [(first, last) for first, last in both if first <= last]


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return the union as sorted ranges that neither overlap nor touch."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return tuple(result)


def _keys(texts: Iterable[str], field: str, problems: list[str]) -> Iterable[int]:
    for text in texts:
        key = address_key(text)
        if key is None:
            problems.append(f'{field}: "{printable(text)}" is not an address that a node can hold{length_hint(text)}')
        else:
            yield key


def _ranges(texts: Iterable[str], field: str, problems: list[str]) -> list[str]:
    good = []
    for text in texts:
        if network_range(text) is None:
            problems.append(f'{field}: "{printable(text)}" is not a CIDR')
        else:
            good.append(text)
    return good


def outside(key: int, node: str) -> str:
    """Return the sentence about an address that the node's interface cannot hold."""
    return f"{address_text(key)}: outside the interface subnets of node {node}"
