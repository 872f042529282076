"""How large a compiled policy may become, known before it is compiled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from egress_router.policy.clients import ROOT, Chains, clients_of
from egress_router.policy.values import ALWAYS_CLOSED, ANY_PORT, MAX_PORT, Block, Decision, Policy, PolicyLine, Ports

#: More different port lists on address lines than this are refused: each may need its own copy of the addresses.
MAX_PORT_LISTS = 256
#: Ranges of addresses in all sets together.
MAX_RANGES = 2_000_000
#: Lines of all branches of the tree of sections together, and such branches: the root and those of 500 sections.
MAX_BRANCH_LINES = 100_000
MAX_BRANCHES = 501
#: Each costs a rule, and Squid's start takes time with the square of them.
MAX_ALTERNATIONS = 2_000


def port_lists(policy: Policy) -> set[Ports]:
    """Return the different port lists of a policy's address lines."""
    return {line.ports for line in policy.lines if isinstance(line.target, Block)}


def alternations(policy: Policy) -> int:
    """Return how often a line has to come after one of the other kind (name, address) and the other decision, in all
    branches of the tree of sections.
    """
    count = 0
    by_section = _by_section(policy)
    for branch in clients_of(policy).branches:
        seen: set[tuple[bool, Decision]] = set()
        for line in by_section[branch.section]:
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
    allows addresses. Such a level comes only after denied names that came after allowed addresses. A section has
    its own sets for every branch of the tree that it stands in; outside is what no branch above it has either.
    """
    by_section = _by_section(policy)
    total = 0
    # The address lines of a branch and those above it.
    for place, branch, addresses in Chains(clients_of(policy), list[PolicyLine], list[PolicyLine]):
        mine = by_section[branch.section]
        addresses.extend(line for line in mine if isinstance(line.target, Block))
        total += _ranges_of(mine, addresses, root=place == ROOT)
    return total


def _ranges_of(mine: Sequence[PolicyLine], addresses: Sequence[PolicyLine], root: bool) -> int:
    if not root and not any(isinstance(line.target, Block) for line in mine):
        return 0
    levels, allowed = 1, False
    for line in mine:
        if isinstance(line.target, Block):
            allowed = allowed or line.decision is Decision.ALLOW
        elif line.decision is Decision.DENY and allowed:
            levels, allowed = levels + 1, False
    classes = len(port_classes(line.ports for line in addresses))
    return 2 * (len(addresses) + len(ALWAYS_CLOSED)) * classes * (levels + 1)


def branch_lines(policy: Policy) -> tuple[int, int]:
    """Return how many branches the tree of sections has, and how many lines these have together."""
    lines = Counter(line.section for line in policy.lines)
    branches = clients_of(policy).branches
    return len(branches), sum(lines[branch.section] for branch in branches)


def _by_section(policy: Policy) -> Mapping[int, list[PolicyLine]]:
    by_section: dict[int, list[PolicyLine]] = defaultdict(list)
    for line in policy.lines:
        by_section[line.section].append(line)
    return by_section


def port_classes(lists: Iterable[Ports]) -> list[Ports]:
    """Return the partition of all ports into sets whose members appear in exactly the same lists."""
    unique = list(dict.fromkeys(lists))
    if all(ports == ANY_PORT for ports in unique):
        return [ANY_PORT]
    # At each edge, the lists that begin or end there: one that does both is none of them.
    edges: dict[int, int] = defaultdict(int)
    edges[1] = edges[MAX_PORT + 1] = 0
    for place, ports in enumerate(unique):
        for first, last in ports.ranges:
            edges[first] ^= 1 << place
            edges[last + 1] ^= 1 << place
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    inside = 0
    for first, after in pairwise(sorted(edges)):
        inside ^= edges[first]
        ranges = groups[inside]
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], after - 1)
        else:
            ranges.append((first, after - 1))
    return [Ports(tuple(ranges)) for ranges in groups.values()]
