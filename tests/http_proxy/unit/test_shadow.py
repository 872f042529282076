"""Which lines can never match: found fast, held against the plain way that asks each line about each earlier one."""

from __future__ import annotations

from hypothesis import given

from egress_router.policy.clients import for_client
from egress_router.policy.ranges import spans
from egress_router.policy.shadowed import MOST_NAMED, shadowed_lines
from egress_router.policy.values import ANY_PORT, Block, Name, Policy, PolicyLine, from_number, merge_ports, to_number
from tests.http_proxy.unit.strategies import CLIENTS, REQUEST_PORTS, parse, policy_texts, section_texts
from tests.support.examples import examples


def covers(earlier: PolicyLine, line: PolicyLine) -> bool:
    """Whether a name line covers the names of another."""
    if not isinstance(earlier.target, Name):
        return True  # everything
    if not isinstance(line.target, Name):
        return False
    same = earlier.target.name == line.target.name
    if earlier.target.subdomains:
        return same or line.target.name.endswith("." + earlier.target.name)
    return same and not line.target.subdomains


def plainly(policy: Policy) -> list[tuple[int, tuple[int, ...]]]:
    found = []
    for at, line in enumerate(policy.lines):
        before = policy.lines[:at]
        if isinstance(line.target, Block):
            overlapping = [
                one
                for one in before
                if isinstance(one.target, Block)
                and one.target.first <= line.target.last
                and line.target.first <= one.target.last
            ]
            if all(address_taken(line, overlapping, port) for port in ports_of_interest(policy) if port in line.ports):
                found.append((line.number, tuple(one.number for one in overlapping[:MOST_NAMED])))
            continue
        covering = [one for one in before if not isinstance(one.target, Block) and covers(one, line)]
        taken = merge_ports(span for one in covering for span in one.ports.ranges)
        if all(any(low <= first and last <= high for low, high in taken) for first, last in line.ports.ranges):
            found.append((line.number, tuple(one.number for one in covering[:MOST_NAMED])))
    return found


def ports_of_interest(policy: Policy) -> set[int]:
    """One port of each class: both ends of every range and what is beside them."""
    edges = {edge for line in policy.lines for span in line.ports.ranges for edge in span}
    near = {edge + step for edge in edges for step in (-1, 0, 1)}
    return {port for port in near | set(REQUEST_PORTS) if port in ANY_PORT}


def address_taken(line: PolicyLine, earlier: list[PolicyLine], port: int) -> bool:
    """Whether earlier lines claim every address of a line at a port, by walking over the edges."""
    assert isinstance(line.target, Block)
    claimed = [
        span for one in earlier if port in one.ports and isinstance(one.target, Block) for span in spans(one.target)
    ]
    for first, last in spans(line.target):
        at = first
        while at <= last:
            reach = max((high for low, high in claimed if low <= at <= high), default=-1)
            if reach < at:
                return False
            at = reach + 1
    return True


@examples(40)
@given(section_texts())
def test_in_sections_what_is_covered_for_all_clients(text: str) -> None:
    policy = parse(text)
    edges = [
        edge for section in policy.sections for block in section.networks or () for edge in (block.first, block.last)
    ]
    clients = {*map(to_number, CLIENTS), *edges, *(edge + 1 for edge in edges), *(edge - 1 for edge in edges)}
    alive: set[int] = set()
    for client in (from_number(number) for number in clients if 0 <= number < 1 << 128):
        mine = for_client(policy, client)
        alive |= {line.number for line in mine.lines} - {number for number, _ in plainly(mine)}
    found = {line.number: numbers for line, numbers in shadowed_lines(policy)}
    assert set(found) == {line.number for line in policy.lines} - alive
    assert all(number < line for line, numbers in found.items() for number in numbers)
    assert all(found.values())


@given(policy_texts(16))
def test_fast_is_plain(text: str) -> None:
    policy = parse(text)
    assert [(line.number, numbers) for line, numbers in shadowed_lines(policy)] == plainly(policy)
