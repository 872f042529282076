"""Lines that can never match because earlier lines match everything they would."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict

from egress_router.errors import Problem
from egress_router.policy.clients import Chains, clients_of
from egress_router.policy.name_lines import suffixes
from egress_router.policy.ranges import Claims, spans
from egress_router.policy.size import port_classes
from egress_router.policy.values import (
    ANY_PORT,
    Block,
    Name,
    Policy,
    PolicyLine,
    Ports,
)

#: A warning names one line less than this, and says when there are more.
MOST_NAMED = 6


def shadow_warnings(policy: Policy) -> list[Problem]:
    """Return a warning for each line that can never match."""
    return [
        Problem(policy.variable, line.number, line.text, f"can never match, since {_listed(earlier)} first")
        for line, earlier in shadowed_lines(policy)
    ]


def _listed(numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]} matches"
    return f"lines {', '.join(map(str, numbers[: MOST_NAMED - 1]))}{' …' if len(numbers) >= MOST_NAMED else ''} match"


def shadowed_lines(policy: Policy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    """Return each line that can never match, with the numbers of the lines in front that cover it.

    Of many numbers the first MOST_NAMED. For an address line they are those of overlapping lines. A name line counts as
    covered by name lines only: address lines never match a name that does not resolve. A line in a section is covered
    when it is for all of the section's clients, and the numbers are what some of these have in front.
    """
    by_section: dict[int, list[PolicyLine]] = defaultdict(list)
    for line in policy.lines:
        by_section[line.section].append(line)
    covered: dict[int, tuple[int, ...]] = {}
    alive: set[int] = set()
    for _, branch, chain in Chains(clients_of(policy), _Chain, _Chain.below):
        mine = by_section[branch.section]
        dead = {line.number: numbers for line, numbers in chain.add(mine)}
        alive.update(line.number for line in mine if line.number not in dead)
        covered = dead | covered
    return [
        (line, covered[line.number]) for line in policy.lines if line.number in covered and line.number not in alive
    ]


class _Chain:
    """The lines of a branch behind those of the branches above it."""

    def __init__(self) -> None:
        #: By name, and whether everything under it is meant: the ports that are taken, and by which lines. One for
        #: each branch of the chain.
        self._names: list[dict[tuple[str, bool], _Taken]] = []
        self._claims: dict[Ports, Claims] = {ANY_PORT: Claims()}
        self._addresses: list[PolicyLine] = []

    def below(self) -> _Chain:
        """Return the chain for a branch below this one."""
        other = _Chain()
        # Never changed in place.
        other._names, other._claims, other._addresses = self._names, self._claims, self._addresses
        return other

    def add(self, lines: list[PolicyLine]) -> list[tuple[PolicyLine, tuple[int, ...]]]:
        """Return those of some lines behind all others that can never match."""
        return [*self._shadowed_names(lines), *self._shadowed_addresses(lines)]

    def _shadowed_names(self, lines: list[PolicyLine]) -> list[tuple[PolicyLine, tuple[int, ...]]]:
        mine: dict[tuple[str, bool], _Taken] = {}
        earlier = [*self._names, mine]
        found = []
        for line in lines:
            if isinstance(line.target, Block):
                continue
            name, subdomains = (
                (line.target.name, line.target.subdomains) if isinstance(line.target, Name) else ("", True)
            )
            keys = [(suffix, True) for suffix in suffixes(name)] + ([] if subdomains else [(name, False)])
            covering = [taken for layer in earlier for key in keys if (taken := layer.get(key)) is not None]
            if covering and all(_taken(covering, first, last) for first, last in line.ports.ranges):
                numbers = sorted(number for taken in covering for number in taken.numbers)
                found.append((line, tuple(numbers[:MOST_NAMED])))
            mine.setdefault((name, subdomains), _Taken()).add(line)
        if mine:
            self._names = earlier
        return found

    def _shadowed_addresses(self, lines: list[PolicyLine]) -> list[tuple[PolicyLine, tuple[int, ...]]]:
        about = [line for line in lines if isinstance(line.target, Block)]
        if not about:
            return []
        self._addresses = [*self._addresses, *about]
        alive: set[int] = set()
        classes: dict[Ports, Claims] = {}
        for ports in port_classes([line.ports for line in self._addresses]):
            port = ports.ranges[0][0]
            above = next(claims for wider, claims in self._claims.items() if port in wider)
            claims = classes[ports] = above.copy()
            for line in about:
                if port in line.ports and isinstance(line.target, Block) and claims.claim(spans(line.target)):
                    alive.add(line.number)
        self._claims = classes
        dead = [line for line in about if line.number not in alive]
        overlapping = _Overlaps(self._addresses) if dead else None
        return [(line, overlapping.before(line)) for line in dead] if overlapping else []


class _Taken:
    """Ports that lines about one target claim: sorted, disjoint ranges, and the numbers of the first lines."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, line: PolicyLine) -> None:
        if len(self.numbers) < MOST_NAMED:
            self.numbers.append(line.number)
        for first, last in line.ports.ranges:
            low, high = bisect_left(self._lasts, first - 1), bisect_right(self._firsts, last + 1)
            joined = [first, *self._firsts[low:high]], [last, *self._lasts[low:high]]
            self._firsts[low:high], self._lasts[low:high] = [min(joined[0])], [max(joined[1])]

    def until(self, port: int) -> int:
        """Return the last port of the range with ``port``; 0 when it is in none."""
        at = bisect_right(self._firsts, port) - 1
        return self._lasts[at] if at >= 0 and self._lasts[at] >= port else 0


def _taken(covering: list[_Taken], first: int, last: int) -> bool:
    """Return whether all ports from ``first`` to ``last`` are claimed by one or the other."""
    while first <= last:
        until = max(taken.until(first) for taken in covering)
        if not until:
            return False
        first = until + 1
    return True


class _Overlaps:
    """Which lines overlap a line. Networks lie in each other or apart, so they are a tree: what overlaps one of them is
    above it (at most as many as an address has bits) or below it, and of those below the first few are kept.
    """

    def __init__(self, lines: list[PolicyLine]) -> None:
        at: dict[tuple[int, int], list[int]] = {}
        for line in lines:
            if isinstance(line.target, Block):
                at.setdefault((line.target.first, line.target.last), []).append(line.number)
        self._up: dict[tuple[int, int], tuple[int, int] | None] = {}
        self._own = {block: sorted(numbers)[:MOST_NAMED] for block, numbers in at.items()}
        self._below = dict(self._own)
        path: list[tuple[int, int]] = []
        # Wide ones before the narrow ones in them.
        for block in sorted(at, key=lambda block: (block[0], -block[1])):
            while path and path[-1][1] < block[0]:
                self._leave(path)
            self._up[block] = path[-1] if path else None
            path.append(block)
        while path:
            self._leave(path)

    def _leave(self, path: list[tuple[int, int]]) -> None:
        block = path.pop()
        if path:
            self._below[path[-1]] = sorted(self._below[path[-1]] + self._below[block])[:MOST_NAMED]

    def before(self, line: PolicyLine) -> tuple[int, ...]:
        """Return the numbers of the first MOST_NAMED lines in front of ``line`` that overlap it."""
        assert isinstance(line.target, Block)  # noqa: S101 - only such lines are asked for
        block = (line.target.first, line.target.last)
        found = list(self._below[block])
        while (above := self._up[block]) is not None:
            block = above
            found += self._own[block]
        return tuple(sorted({number for number in found if number < line.number})[:MOST_NAMED])
