"""Which address line of the policy an address belongs to."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

from egress_router.policy.compiled import CompiledPolicy
from egress_router.policy.ranges import Span
from egress_router.policy.values import Address, to_number


class Owners:
    """The address line that an address belongs to, at each port."""

    def __init__(self, compiled: CompiledPolicy) -> None:
        rules = [rule for rule in compiled.rules if rule.addresses]
        by_rules = cache(lambda numbers: _Sorted([entry for number in numbers for entry in rules[number].ranges()]))
        # Few different ones: ports are alike in classes.
        self._at_port = cache(
            lambda port: by_rules(tuple(number for number, rule in enumerate(rules) if port in rule.ports))
        )

    def line(self, address: Address, port: int) -> int | None:
        """Return the first line about an address at a port; 0 when it is closed."""
        return self._at_port(port).at(to_number(address))


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
