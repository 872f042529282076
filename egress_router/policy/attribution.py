"""Which lines of the policy names and addresses belong to, found in a few steps however many lines there are."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from functools import cache

from egress_router.policy.clients import Clients
from egress_router.policy.compiled import CompiledPolicy, Rule
from egress_router.policy.name_lines import NameLines
from egress_router.policy.ranges import Span
from egress_router.policy.values import Address, Block, Policy, to_number


class NameOwners:
    """The line that a name belongs to, for each group of clients, at each port."""

    def __init__(self, policy: Policy, clients: Clients) -> None:
        self._clients = clients
        self._names: dict[int, NameLines] = defaultdict(NameLines)
        for line in policy.lines:
            if not isinstance(line.target, Block):
                self._names[line.section].add(line)

    def line(self, host: str, port: int, group: int = 0) -> int | None:
        """Return the first line about a name that is for a group of clients; about any host where it is ""."""
        for branch in self._clients.groups[group].branches:
            names = self._names.get(self._clients.branches[branch].section)
            if names and (found := names.first(host, port)):
                return found.number
        return None


class Owners:
    """The address line that an address belongs to, for each group of clients, at each port."""

    def __init__(self, compiled: CompiledPolicy) -> None:
        self._groups = compiled.clients.groups
        rules = [rule for rule in compiled.rules if rule.addresses]
        by_rules = cache(lambda numbers: _Sorted([entry for number in numbers for entry in rules[number].ranges()]))
        # Few different ones: ports are alike in classes.
        self._of_branch = cache(
            lambda branch, port: by_rules(
                tuple(number for number, rule in enumerate(rules) if rule.branch == branch and port in rule.ports)
            )
        )
        closing = [(number, rule) for number, rule in enumerate(rules) if rule.branch is None]
        self._closed_to = cache(
            lambda group, port: by_rules(
                tuple(number for number, rule in closing if port in rule.ports and self._is_for(rule, group))
            )
        )

    def line(self, address: Address, port: int, group: int = 0) -> int | None:
        """Return the first line about an address at a port that is for a group of clients; 0 when it is closed."""
        number = to_number(address)
        if self._closed_to(group, port).at(number) == 0:
            return 0
        found = (self._of_branch(branch, port).at(number) for branch in self._groups[group].branches)
        return next((line for line in found if line is not None), None)

    def _is_for(self, rule: Rule, group: int) -> bool:
        client = self._groups[group].clients[0][0]
        return rule.clients is None or any(first <= client <= last for first, last in rule.clients)


class _Sorted:
    def __init__(self, spans: list[tuple[Span, int]]) -> None:
        self._spans = sorted(spans)
        self._firsts = [first for (first, _), _ in self._spans]

    def at(self, number: int) -> int | None:
        place = bisect_right(self._firsts, number) - 1
        if place < 0:
            return None
        (_, last), line = self._spans[place]
        return line if number <= last else None
