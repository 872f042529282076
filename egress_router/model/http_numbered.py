"""The ranges of denying rules, numbered, so that Squid can tell in which of them a name has addresses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from egress_router.model.http_codes import RangeCode, range_codes
from egress_router.model.http_policy import Decision
from egress_router.model.http_regions import Span
from egress_router.model.http_rules import CompiledPolicy, Rule

#: The answer that an address is closed whatever the lines say.
CLOSED = "c"


@dataclass(frozen=True, slots=True)
class NumberedRanges:
    """The ranges of a rule's address lines in the order of addresses, the line of each, and how Squid is asked which
    ones hold an address of a name. ``closed`` (line 0) is asked about first: nothing comes before it.
    """

    closed: tuple[Span, ...]
    ranges: tuple[Span, ...]
    lines: Sequence[int]
    code: RangeCode

    @property
    def alone(self) -> bool:
        """Whether there is but one line beside those closed, so that nothing else need be asked."""
        return all(line == self.lines[0] for line in self.lines)

    def told(self, answers: Iterable[str]) -> int | None:
        """Return the first line that certainly holds an address, 0 for a closed one; None when none certainly does."""
        words = frozenset(answers)
        if CLOSED in words:
            return 0
        if self.alone:
            return self.lines[0]
        some = ({self.lines[number] for number in numbers} for numbers in self.code.holding(words))
        return min((next(iter(lines)) for lines in some if len(lines) == 1), default=None)


def numbered_ranges(compiled: CompiledPolicy) -> dict[int, NumberedRanges]:
    """Return the ranges of the denying rules with several address lines, by the number of the rule (from 1).

    Others need no question: a rule with one line has that one, and an allowed request has the address that it went to.
    """
    asked = {number: rule.ranges() for number, rule in enumerate(compiled.rules, start=1) if _is_asked(rule)}
    found = {}
    codes = range_codes([sum(line > 0 for _, line in spans) for spans in asked.values()])
    for (number, spans), code in zip(asked.items(), codes, strict=True):
        closed = tuple(span for span, line in spans if line == 0)
        ranges, lines = zip(*((span, line) for span, line in spans if line), strict=True)
        found[number] = NumberedRanges(closed, ranges, lines, code)
    return found


def _is_asked(rule: Rule) -> bool:
    return rule.decision is Decision.DENY and len(rule.addresses) > 1
