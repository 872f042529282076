"""Which address line decided about a request, from what Squid tells about it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from egress_router.model.http_codes import words
from egress_router.model.http_policy import Address, to_number
from egress_router.model.http_rules import Rule


class AddressLines:
    """The address lines of one rule. Line 0 stands for the addresses that are always closed."""

    def __init__(self, rule: Rule) -> None:
        spans = sorted((first, last, line.number) for line in rule.addresses for first, last in line.ranges)
        self._firsts = [first for first, _, _ in spans]
        self._spans = spans
        spelled = words(len(rule.addresses)) if rule.addresses else []
        self._words = {word: line.number for word, line in zip(spelled, rule.addresses, strict=True)}

    def at(self, address: Address) -> int | None:
        """Return the line that an address belongs to."""
        number = to_number(address)
        place = bisect_right(self._firsts, number) - 1
        if place < 0:
            return None
        _, last, line = self._spans[place]
        return line if number <= last else None

    def spelled(self, bits: Iterable[int]) -> int | None:
        """Return the line whose word has these bits; None when several lines match, in whichever number."""
        return self._words.get(frozenset(bits))
