"""How large a compiled policy may become, known before it is compiled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from egress_router.policy.values import ALWAYS_CLOSED, ANY_PORT, MAX_PORT, Block, Decision, Policy, Ports

#: More different port lists on address lines than this are refused: each may need its own copy of the addresses.
MAX_PORT_LISTS = 256


#: Ranges of addresses in all sets together.
MAX_RANGES = 2_000_000


#: Each costs a rule, and Squid's start takes time with the square of them.
MAX_ALTERNATIONS = 2_000


def port_lists(policy: Policy) -> set[Ports]:
    """Return the different port lists of a policy's address lines."""
    return {line.ports for line in policy.lines if isinstance(line.target, Block)}


def alternations(policy: Policy) -> int:
    """Return how often a line has to come after one of the other kind (name, address) and the other decision."""
    count = 0
    seen: set[tuple[bool, Decision]] = set()
    for line in policy.lines:
        about_address = isinstance(line.target, Block)
        other = Decision.DENY if line.decision is Decision.ALLOW else Decision.ALLOW
        if (not about_address, other) in seen:
            count += 1
            seen.clear()
        seen.add((about_address, line.decision))
    return count


def most_ranges(policy: Policy) -> int:
    """Return how many ranges the sets of a policy hold at most.

    Every class of ports has the ranges of its lines, and once more what lies outside of them for every level that
    allows addresses. Such a level comes only after denied names that came after allowed addresses.
    """
    addresses = sum(isinstance(line.target, Block) for line in policy.lines)
    levels, allowed = 1, False
    for line in policy.lines:
        if isinstance(line.target, Block):
            allowed = allowed or line.decision is Decision.ALLOW
        elif line.decision is Decision.DENY and allowed:
            levels, allowed = levels + 1, False
    classes = len(port_classes(port_lists(policy)))
    return 2 * (addresses + len(ALWAYS_CLOSED)) * classes * (levels + 1)


def port_classes(lists: Iterable[Ports]) -> list[Ports]:
    """Return the partition of all ports into sets whose members appear in exactly the same lists."""
    unique = list(dict.fromkeys(lists))
    if all(ports == ANY_PORT for ports in unique):
        return [ANY_PORT]
    edges = {1, MAX_PORT + 1}
    for ports in unique:
        for first, last in ports.ranges:
            edges |= {first, last + 1}
    bounds = sorted(edges)
    groups: dict[tuple[bool, ...], list[tuple[int, int]]] = defaultdict(list)
    for first, after in pairwise(bounds):
        key = tuple(first in ports for ports in unique)
        ranges = groups[key]
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], after - 1)
        else:
            ranges.append((first, after - 1))
    return [Ports(tuple(ranges)) for ranges in groups.values()]
