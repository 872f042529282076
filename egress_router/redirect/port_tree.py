"""Rules with port ranges as a tree of chains, so that iptables walks tens of rules where there are thousands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from egress_router.config.values import PortRange
from egress_router.net.iptables.rules import IptRule
from egress_router.records import dataclass

#: Rules in a chain, and branches of an inner one. The cost of a look-up is about FAN_OUT / 2 per level.
FAN_OUT = 8


@dataclass(frozen=True, slots=True)
class PortRule:
    """A leaf: the rule for a range of ports; ranges of one tree do not overlap."""

    ports: PortRange
    rule: IptRule


def port_tree(
    leaves: Sequence[PortRule], stem: str, branch: Callable[[PortRange, str], IptRule]
) -> tuple[tuple[IptRule, ...], dict[str, tuple[IptRule, ...]]]:
    """Return the top rules for ``leaves`` and the chains below them, whose names begin with ``stem``.

    ``branch(ports, chain)`` makes the rule that sends the ports of a range to a chain.
    """
    level = sorted(leaves, key=lambda leaf: leaf.ports)
    chains: dict[str, tuple[IptRule, ...]] = {}
    while len(level) > FAN_OUT:
        groups = [level[start : start + FAN_OUT] for start in range(0, len(level), FAN_OUT)]
        level = []
        for group in groups:
            ports = PortRange(group[0].ports.first, group[-1].ports.last)
            name = f"{stem}-{ports}"
            while name in chains:
                # A group of one keeps the range, and so the name, of the level below.
                name += "+"
            chains[name] = tuple(leaf.rule for leaf in group)
            level.append(PortRule(ports, branch(ports, name)))
    return tuple(leaf.rule for leaf in level), chains
