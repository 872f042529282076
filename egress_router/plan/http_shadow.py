"""Lines that can never match because earlier lines match everything they would."""

from __future__ import annotations

from egress_router.errors import Problem
from egress_router.model.http_cost import port_classes
from egress_router.model.http_policy import Block, HttpPolicy, Name, PolicyLine, Ports, merge_ports
from egress_router.model.http_regions import Claims, spans
from egress_router.plan.http_names import NameLines


def shadow_warnings(policy: HttpPolicy) -> list[Problem]:
    """Return a warning for each line that can never match."""
    return [
        Problem(policy.variable, line.number, line.text, f"can never match, since {_listed(earlier)} first")
        for line, earlier in shadowed_lines(policy)
    ]


def _listed(numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]} matches"
    return f"lines {', '.join(map(str, numbers[:5]))}{' …' if len(numbers) > 5 else ''} match"


def shadowed_lines(policy: HttpPolicy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    """Return each line that can never match, with the numbers of the lines in front that cover it.

    For an address line the numbers are those of overlapping lines. A name line counts as covered by name lines
    only: address lines never match a name that does not resolve.
    """
    found = [*_shadowed_names(policy), *_shadowed_addresses(policy)]
    return sorted(found, key=lambda pair: pair[0].number)


def _shadowed_names(policy: HttpPolicy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    earlier = NameLines()
    found = []
    for line in policy.lines:
        if isinstance(line.target, Block):
            continue
        name, subdomains = (line.target.name, line.target.subdomains) if isinstance(line.target, Name) else ("", True)
        covering = list(earlier.covering(name, subdomains))
        ports = merge_ports(span for one in covering for span in one.ports.ranges)
        if _holds(ports, line.ports):
            found.append((line, tuple(sorted(one.number for one in covering))))
        earlier.add(line)
    return found


def _holds(ranges: tuple[tuple[int, int], ...], ports: Ports) -> bool:
    return all(any(low <= first and last <= high for low, high in ranges) for first, last in ports.ranges)


def _shadowed_addresses(policy: HttpPolicy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    lines = [line for line in policy.lines if isinstance(line.target, Block)]
    alive: set[int] = set()
    for ports in port_classes([line.ports for line in lines]):
        claims = Claims()
        for line in lines:
            if ports.ranges[0][0] in line.ports and isinstance(line.target, Block) and claims.claim(spans(line.target)):
                alive.add(line.number)
    dead = [line for line in lines if line.number not in alive]
    return [(line, _overlapping(line, lines)) for line in dead]


def _overlapping(line: PolicyLine, lines: list[PolicyLine]) -> tuple[int, ...]:
    mine = line.target
    return tuple(
        other.number
        for other in lines
        if other.number < line.number
        and isinstance(mine, Block)
        and isinstance(other.target, Block)
        and other.target.first <= mine.last
        and mine.first <= other.target.last
    )
