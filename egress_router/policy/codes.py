"""Which ranges of many hold an address of a name, from a few hundred questions.

Squid answers one kind of question about a name: is *any* of its addresses in this set? To tell any of n ranges from all
others takes n sets (for each range one that holds it and none of those to be told apart from it), and Squid's start
takes time with the square of its sets. So ranges stand in *blocks* of neighbours, and Squid notes every block that it
finds an address in. Up to ``BLOCKS`` ranges have a block each, and that is all. Of more, it is asked

- for each *digit* of the place in a block, what it is. Unless it ever is two things at once, all blocks have their
  address at the place that the digits spell, and all is known;
- otherwise in *rounds*, each with another partition of all ranges (a Reed-Solomon code): which parts have an address? A
  range is possible when its part has one in every round. What alone is possible in its block or part is certain.

So nothing false is ever told, whatever the name resolves to. Whether all is told is a matter of chance where there are
more ranges than blocks: of 10,000 ranges that four addresses are in, the first is not certain once in 5,000 times, and
another one is. That none is certain takes rules by the dozen, each with its own ports, or dozens of addresses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_from

from egress_router.policy.compiled import CompiledPolicy, Rule
from egress_router.policy.ranges import Span
from egress_router.policy.values import Decision

#: Blocks and parts that Squid has sets for, in all rules together; every rule has some blocks.
BLOCKS = 400
BLOCKS_AT_LEAST = 4
PARTS = 2000
#: A round each: where the code's polynomials are evaluated. Different for every prime, and not small, so that
#: neighbours in neighbouring blocks share no part.
POINTS = (22, 40, 66)
_PRIMES = (17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127)
#: A round has more parts than a block has places where there is room, and at least so many.
_PARTS_ENOUGH = 101

#: Values of a digit.
BASE = 5
#: The answer that the digits do not spell one place.
MIXED = "x"


@dataclass(frozen=True, slots=True)
class RangeCode:
    """The questions about ``count`` ranges, numbered in their order: ``size`` of them in a block, ``parts`` in a round
    (0: there are no rounds). Answers are words: ``b7`` for block 7, ``d1.3`` for digit 1 being 3, ``t1.30`` for part 30
    of round 1.
    """

    count: int
    size: int
    parts: int

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.count // self.size)

    @property
    def digits(self) -> range:
        """The digits of a place in a block, the lowest first."""
        return range(next(count for count in count_from(0) if BASE**count >= self.size))

    @property
    def rounds(self) -> range:
        """The rounds, counted from 0."""
        return range(len(POINTS) if self.parts else 0)

    def block(self, number: int) -> range:
        """Return the numbers of the ranges in a block."""
        return range(number * self.size, min((number + 1) * self.size, self.count))

    def digit(self, which: int, number: int) -> int:
        """Return a digit of the place that a range has in its block."""
        return number % self.size // int(BASE**which) % BASE

    def part(self, turn: int, number: int) -> int:
        """Return the part that a range is in. Ranges of one block are in different parts if there are enough."""
        block, place = divmod(number, self.size)
        digits = (place % self.parts, block % self.parts, block // self.parts, place // self.parts)
        return sum(digit * pow(POINTS[turn], power, self.parts) for power, digit in enumerate(digits)) % self.parts

    def holding(self, answers: Iterable[str]) -> Iterator[set[int]]:
        """Yield sets of ranges that each have at least one with an address; all that have one are in some set."""
        told = frozenset(answers)
        blocks = [number for number in range(self.blocks) if f"b{number}" in told]
        if MIXED not in told:
            spelled = ((which, value) for which in self.digits for value in range(BASE) if f"d{which}.{value}" in told)
            place = sum(value * BASE**which for which, value in spelled)
            yield from (set(self.block(block)[place : place + 1]) for block in blocks)
            return
        by_part: dict[str, set[int]] = defaultdict(set)
        for block in blocks:
            possible = {one for one in self.block(block) if told.issuperset(self._words(one))}
            yield possible
            for one in possible:
                for word in self._words(one):
                    by_part[word].add(one)
        yield from by_part.values()

    def _words(self, number: int) -> list[str]:
        return [f"t{turn}.{self.part(turn, number)}" for turn in self.rounds]


def range_codes(counts: Sequence[int]) -> list[RangeCode]:
    """Return the questions for rules with so many ranges each, so that all together stay within the bounds."""
    total = sum(counts)
    sizes = [_size(count, total) for count in counts]
    large = sum(size > 1 for size in sizes)
    room = PARTS // (len(POINTS) * large) if large else 0
    return [RangeCode(count, size, _parts(size, room)) for count, size in zip(counts, sizes, strict=True)]


def _size(count: int, total: int) -> int:
    return 1 if total <= BLOCKS else -(-count // max(BLOCKS_AT_LEAST, BLOCKS * count // total))


def _parts(size: int, room: int) -> int:
    fitting = [prime for prime in _PRIMES if prime <= room] if size > 1 else []
    enough = (prime for prime in fitting if prime >= max(size, _PARTS_ENOUGH))
    return next(enough, fitting[-1] if fitting else 0)


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

    def line_in(self, answers: Iterable[str]) -> int | None:
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
    return rule.decision is Decision.DENY and len(rule.addresses) > 1 and not rule.embedded
