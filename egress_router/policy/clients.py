"""Which sections of a policy are for which clients.

Clients that the same sections are for are a *group*: its policy is the list without all other sections. Groups begin
with the same lines mostly, so sections stand in a tree: a *branch* is a section behind certain others, its clients
those of all groups that have these sections in this order. What follows from a branch's lines follows once, however
many groups there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from egress_router.policy.ranges import Span, complement, normal, spans
from egress_router.policy.values import Address, Block, Policy, Section, from_number, to_number

T = TypeVar("T")

#: The root: the lines before any head, which are for everybody.
ROOT = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Clients that the same sections are for: their addresses, and the branches in the order of the sections."""

    clients: tuple[Span, ...]
    branches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """A section behind others. ``clients`` is None for everybody, ``parent`` None for the root alone."""

    section: int
    parent: int | None
    clients: tuple[Span, ...] | None


@dataclass(frozen=True, slots=True)
class Clients:
    """The groups, and the tree of their sections: every branch stands behind its parent."""

    groups: tuple[Group, ...]
    branches: tuple[Branch, ...]
    #: Where the clients of a group begin, in order; every client is in one group.
    starts: tuple[tuple[int, int], ...]

    def group(self, client: Address) -> int:
        """Return the place of the group that a client is in."""
        return self.starts[bisect_right(self.starts, to_number(client), key=lambda start: start[0]) - 1][1]


class Chains(Generic[T]):
    """Walks over the tree, with what the branches above each branch left: ``begin`` makes it for the root, ``behind``
    for a branch below another one. None is kept longer than there are branches below it to come.
    """

    def __init__(self, clients: Clients, begin: Callable[[], T], behind: Callable[[T], T]) -> None:
        self._branches = clients.branches
        self._begin = begin
        self._behind = behind

    def __iter__(self) -> Iterator[tuple[int, Branch, T]]:
        """Yield every branch with its place, behind its parent."""
        last = {branch.parent: place for place, branch in enumerate(self._branches)}
        kept: dict[int, T] = {}
        for place, branch in enumerate(self._branches):
            one = self._begin() if branch.parent is None else self._behind(kept[branch.parent])
            if branch.parent is not None and last[branch.parent] == place:
                del kept[branch.parent]
            if place in last:
                kept[place] = one
            yield place, branch, one


def is_for(section: Section, client: Address) -> bool:
    """Return whether a section is for a client."""
    number = to_number(client)
    return section.networks is None or any(
        first <= number <= last for block in section.networks for first, last in spans(block)
    )


def for_client(policy: Policy, client: Address) -> Policy:
    """Return the lines that are for a client, as a policy without sections."""
    mine = {place for place, section in enumerate(policy.sections) if is_for(section, client)}
    return Policy(tuple(replace(line, section=0) for line in policy.lines if line.section in mine), policy.variable)


def described(policy: Policy) -> list[tuple[str, Address]]:
    """Return every group of clients in words, with one of its clients; one group without words where there are no
    sections.
    """
    clients = clients_of(policy)
    found = []
    for group in clients.groups:
        sections = (policy.sections[clients.branches[branch].section] for branch in group.branches)
        heads = [section for section in sections if section.networks is not None]
        words = " and ".join(f'line {section.number} "{section.text}"' for section in heads)
        found.append((f"for clients of {words}" if heads else "for all other clients", group.clients[0][0]))
    alone = len(found) == 1
    return [("" if alone else words, from_number(first)) for words, first in found]


def asked_about(policy: Policy, client: Address | None) -> list[tuple[str, Address]]:
    """Return whom a question is about, in words and as a client: ``client``, or one of each group without it."""
    return [(f"for client {client}", client)] if client else described(policy)


def clients_of(policy: Policy) -> Clients:
    """Return the groups of clients that a policy tells apart. Sections without lines make no difference."""
    used = {line.section for line in policy.lines} | {ROOT}
    limited = {place: policy.sections[place].networks for place in sorted(used)}
    everywhere = tuple(place for place, networks in limited.items() if networks is None)
    by_sections: dict[tuple[int, ...], list[Span]] = defaultdict(list)
    for span, active in _pieces({place: networks for place, networks in limited.items() if networks is not None}):
        by_sections[tuple(sorted((*active, *everywhere)))].append(span)
    rest = complement(span for ranges in by_sections.values() for span in ranges)
    groups = {sections: normal(ranges) for sections, ranges in by_sections.items()}
    if rest:
        # Nobody else has these sections alone, since all others have one more.
        groups = {everywhere: rest, **groups}
    prefixes: dict[tuple[int, ...], list[Span]] = defaultdict(list)
    for sections, ranges in groups.items():
        for length in range(1, len(sections) + 1):
            prefixes[sections[:length]].extend(ranges)
    places = {prefix: place for place, prefix in enumerate(sorted(prefixes))}
    branches = tuple(
        Branch(prefix[-1], places.get(prefix[:-1]), _unless_all(normal(prefixes[prefix]))) for prefix in places
    )
    found = tuple(
        Group(tuple(ranges), tuple(places[sections[:length]] for length in range(1, len(sections) + 1)))
        for sections, ranges in groups.items()
    )
    starts = sorted((first, place) for place, group in enumerate(found) for first, _ in group.clients)
    return Clients(found, branches, tuple(starts))


def _pieces(limited: dict[int, tuple[Block, ...]]) -> Iterable[tuple[Span, tuple[int, ...]]]:
    """Yield ranges of clients with the sections that are for them, leaving out those that none is for."""
    edges: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, networks in limited.items():
        for first, last in normal(span for block in networks for span in spans(block)):
            edges[first].append((place, 1))
            edges[last + 1].append((place, -1))
    active: dict[int, int] = defaultdict(int)
    start = 0
    for at in sorted(edges):
        if active:
            yield (start, at - 1), tuple(active)
        for place, change in edges[at]:
            active[place] += change
            if not active[place]:
                del active[place]
        start = at


def _unless_all(ranges: list[Span]) -> tuple[Span, ...] | None:
    return tuple(ranges) if complement(ranges) else None
