"""Lines that can never match because earlier lines match everything they would."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from egress_router.errors import Problem
from egress_router.policy.name_lines import suffixes
from egress_router.policy.ranges import Claims, spans
from egress_router.policy.size import port_classes
from egress_router.policy.values import (
    Block,
    Name,
    Policy,
    PolicyLine,
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
    covered by name lines only: address lines never match a name that does not resolve.
    """
    found = [*_shadowed_names(policy), *_shadowed_addresses(policy)]
    return sorted(found, key=lambda pair: pair[0].number)


def _shadowed_names(policy: Policy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    #: By name, and whether everything under it is meant: the ports that are taken, and by which lines.
    earlier: dict[tuple[str, bool], _Taken] = {}
    found = []
    for line in policy.lines:
        if isinstance(line.target, Block):
            continue
        name, subdomains = (line.target.name, line.target.subdomains) if isinstance(line.target, Name) else ("", True)
        keys = [(suffix, True) for suffix in suffixes(name)] + ([] if subdomains else [(name, False)])
        covering = [taken for key in keys if (taken := earlier.get(key)) is not None]
        if covering and all(_taken(covering, first, last) for first, last in line.ports.ranges):
            numbers = sorted(number for taken in covering for number in taken.numbers)
            found.append((line, tuple(numbers[:MOST_NAMED])))
        earlier.setdefault((name, subdomains), _Taken()).add(line)
    return found


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


def _shadowed_addresses(policy: Policy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    lines = [line for line in policy.lines if isinstance(line.target, Block)]
    alive: set[int] = set()
    for ports in port_classes([line.ports for line in lines]):
        claims = Claims()
        for line in lines:
            if ports.ranges[0][0] in line.ports and isinstance(line.target, Block) and claims.claim(spans(line.target)):
                alive.add(line.number)
    dead = [line for line in lines if line.number not in alive]
    overlapping = _Overlaps(lines)
    return [(line, overlapping.before(line)) for line in dead]


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
