"""What Squid answers to the questions about the lines of a rule, in a few words."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.policy.codes import CLOSED, MIXED, NumberedRanges, RangeCode
from egress_router.policy.ranges import Span
from egress_router.policy.values import Address, to_number


def answers(asked: NumberedRanges, addresses: Iterable[Address]) -> list[str]:
    """Return the words that are true of a name with these addresses."""
    numbers = [to_number(address) for address in addresses]

    def hit(span: Span) -> bool:
        return any(span[0] <= number <= span[1] for number in numbers)

    if any(hit(span) for span in asked.closed):
        return [CLOSED]
    return words(asked.code, {number for number, span in enumerate(asked.ranges) if hit(span)})


def words(code: RangeCode, held: set[int]) -> list[str]:
    """Return the words that are true when these ranges hold addresses."""
    told = [f"b{block}" for block in sorted({number // code.size for number in held})]
    for which in code.digits:
        values = sorted({code.digit(which, number) for number in held})
        told.append(f"d{which}.{values[0]}")
        if len(values) > 1:
            parts = {f"t{turn}.{code.part(turn, number)}" for turn in code.rounds for number in held}
            return [*told, MIXED, *sorted(parts)]
    return told
