"""The tree of port ranges: every port reaches its own leaf and no other, past few rules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.values import PortRange
from egress_router.net.iptables.rules import IptMatch, IptRule
from egress_router.redirect.port_tree import FAN_OUT, PortRule, port_tree
from tests.redirect.unit.walk import Walk
from tests.support.examples import examples
from tests.support.strategies import disjoint_ranges

#: iptables(8): chain names have at most 28 characters (XT_EXTENSION_MAXNAMELEN - 1).
MAX_NAME = 28


def match(ports: PortRange) -> tuple[IptMatch, ...]:
    return (IptMatch("sctp", (("dport", f"{ports.first}:{ports.last}"),)),)


def tree(ranges: list[PortRange], *, goto: bool) -> tuple[tuple[IptRule, ...], dict[str, tuple[IptRule, ...]]]:
    def branch(ports: PortRange, chain: str) -> IptRule:
        return IptRule(chain, protocol="sctp", matches=match(ports), goto=goto)

    target = "RETURN" if goto else "DNAT"
    leaves = [
        PortRule(ports, IptRule(target, protocol="sctp", matches=match(ports), line=line))
        for line, ports in enumerate(ranges)
    ]
    return port_tree(leaves, "sctp", branch)


def check(ranges: list[PortRange], ports: list[int], *, goto: bool) -> None:
    top, chains = tree(ranges, goto=goto)
    levels = max(1, math.ceil(math.log(max(1, len(ranges)), FAN_OUT)))
    assert all(1 <= len(rules) <= FAN_OUT for rules in chains.values())
    assert len(top) <= FAN_OUT
    assert all(len(name) <= MAX_NAME for name in chains)
    jumped_to = [rule.target for rules in (top, *chains.values()) for rule in rules if rule.target in chains]
    assert sorted(jumped_to) == sorted(chains), "each chain is entered from one place"
    for port in ports:
        owner = [line for line, item in enumerate(ranges) if port in item] if len(ranges) < 200 else None
        walk = Walk(chains, "sctp", port)
        # What follows the top rules is the fallback: it must be reached when, and only when, no leaf matches.
        ended = walk.run((*top, IptRule("FALLBACK")))
        lines = [leaf.line for leaf in walk.leaves if leaf.target != "FALLBACK"]
        if owner is not None:
            assert lines == owner
        assert len(lines) <= 1
        if not goto:
            assert ended
            assert (walk.leaves[-1].target == "FALLBACK") == (lines == [])
        assert walk.looked_at <= FAN_OUT * (levels + 1) + 1


@pytest.mark.parametrize("goto", [False, True])
@examples(30)
@given(ranges=disjoint_ranges(max_size=100))
def test_each_port_reaches_its_leaf(ranges: list[PortRange], goto: bool) -> None:
    ports = {port for r in ranges for port in (r.first - 1, r.first, (r.first + r.last) // 2, r.last, r.last + 1)}
    check(ranges, sorted(ports & set(range(1, 65536))), goto=goto)


@examples(20)
@given(st.sets(st.integers(1, 300), max_size=120))
def test_every_port_of_a_small_space(ports: set[int]) -> None:
    check([PortRange(port, port) for port in ports], list(range(1, 302)), goto=False)


@pytest.mark.parametrize("count", [0, 1, FAN_OUT, FAN_OUT + 1, FAN_OUT**2, FAN_OUT**2 + 1, 10_000])
def test_sizes(count: int) -> None:
    """Single ports up to the last; the walk stays short however many there are."""
    first = 65_535 - count + 1
    ranges = [PortRange(port, port) for port in range(first, 65_536)]
    check(
        ranges,
        sorted({1, first - 1 or 1, first, min(65_535, first + count // 2), 65_535} & set(range(1, 65_536))),
        goto=False,
    )
    top, chains = tree(ranges, goto=False)
    lines = [rule.line for rules in (top, *chains.values()) for rule in rules if rule.target == "DNAT"]
    assert sorted(line for line in lines if line is not None) == list(range(count)), "each leaf stands in one place"
