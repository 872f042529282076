"""Sets of names, addresses and ports as Squid's ACLs, and which range of a denying rule a name fell into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

from egress_router.policy.codes import BASE, CLOSED, MIXED, NumberedRanges
from egress_router.policy.ranges import Span, complement, normal, split_families
from egress_router.policy.values import NOWHERE, from_number

#: Names of ACLs that Squid takes are shorter than 64 characters.
LONGEST_NAME = 50
#: Longer sets, in characters, get a file; Squid reads lines of up to 2,047.
LONGEST_LINE = 1000


class SquidSets:
    """Collects ``acl`` lines and files. ``families``: those that servers have which count, ``clients`` those that
    clients have: Squid refuses addresses of a family that the pod has not.
    Without ``look_up`` sets of addresses are about literal ones alone, and no name server is asked.
    """

    def __init__(
        self,
        directory: PurePosixPath,
        families: Sequence[int],
        look_up: bool = True,
        clients: Sequence[int] = (4, 6),
    ) -> None:
        self._client_families = clients
        self._look_up = look_up
        self._directory = directory
        self._families = families
        self._known: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()
        self._texts: dict[Span, str] = {}
        self._notes: set[str] = set()
        self.files: dict[str, str] = {}
        self.lines: list[str] = []

    def define(self, name: str, kind: str, entries: Sequence[str]) -> str:
        """Define a set once, in a file when it is long, and return the name it goes by."""
        if kind == "dst" and not self._look_up:
            kind = "dst -n"
        body = "\n".join(entries) + "\n"
        if (kind, body) in self._known:
            return self._known[kind, body]
        if len(name) > LONGEST_NAME:
            name = f"set_{len(self._known)}"
        elif name in self._taken:
            name = f"{name}_{len(self._known)}"
        self._taken.add(name)
        self._known[kind, body] = name
        if len(body) < LONGEST_LINE:
            self.lines.append(f"acl {name} {kind} {' '.join(entries)}")
        else:
            self.files[name] = body
            self.lines.append(f'acl {name} {kind} "{self._directory / name}"')
        return name

    def note(self, name: str, text: str) -> str:
        """Define an ACL that always matches and leaves a note for the access log; return its name."""
        if name not in self._notes:
            self._notes.add(name)
            self.lines.append(f"acl {name} annotate_transaction {text}")
        return name

    def ranges(self, ranges: Iterable[Span]) -> list[str]:
        """Return Squid's notation of ranges that hold one family each, without the addresses that lead nowhere."""
        return self.written(_without(ranges, sorted(NOWHERE)))

    def clients(self, ranges: Iterable[Span]) -> list[str]:
        """Return Squid's notation of the same, of clients: whatever leads nowhere is none."""
        kept = _without(split_families(ranges), sorted(NOWHERE))
        return [_range(span) for span in kept if from_number(span[0]).version in self._client_families]

    def written(self, ranges: Iterable[Span]) -> list[str]:
        """Return Squid's notation of ranges that hold one family each."""
        return [text for span in ranges if (text := self._text(span))]

    def _text(self, span: Span) -> str:
        # Most ranges are in a dozen sets.
        if span not in self._texts:
            self._texts[span] = _range(span) if from_number(span[0]).version in self._families else ""
        return self._texts[span]


def _range(span: Span) -> str:
    return "-".join(str(from_number(end)) for end in dict.fromkeys(span))


def _without(ranges: Iterable[Span], holes: Sequence[int]) -> Iterator[Span]:
    for first, last in ranges:
        at = first
        for hole in holes:
            if at <= hole <= last:
                if at < hole:
                    yield at, hole - 1
                at = hole + 1
        if at <= last:
            yield at, last


#: Branches of a node of the tree that finds the blocks: few questions, and few nodes.
BRANCHES = 4
#: So many parts of a round are asked about only when one of them has an address.
PARTS_TOGETHER = 10
#: Goes on with the next question whatever the answer was.
_ON = "!all"


def define_which(sets: SquidSets, number: int, asked: NumberedRanges) -> str:
    """Define an ACL that always matches, and notes the words of ``asked.code``; return its name."""
    return _Which(sets, number, asked).define()


class _Which:
    """The questions about one rule. Sets are defined right before they are used: Squid looks them up from the end."""

    def __init__(self, sets: SquidSets, number: int, asked: NumberedRanges) -> None:
        self._sets = sets
        self._number = number
        self._closed = asked.closed
        self._alone = asked.alone
        self._ranges = asked.ranges
        self._code = asked.code

    def define(self) -> str:
        # What a literal address belongs to is known without questions.
        choices = [self._sets.define("literal", "dst -n", self._sets.ranges(complement([])))]
        if closed := self._sets.ranges(self._closed):
            name = self._sets.define("closed", "dst", closed)
            choices.append(self._all_of("shut", [f"{name} {self._note(CLOSED)}"]))
        if not self._alone:
            choices.append(self._tree(0, self._code.blocks))
            choices.append(self._digits(self._rounds()) if self._code.digits else "")
        return self._define("which", "any-of", [*filter(None, choices), "all"])

    def _tree(self, first: int, after: int) -> str:
        """Define what notes each of some blocks that has an address, and never matches."""
        step = max(1, -(-(after - first) // BRANCHES))
        branches = []
        for low in range(first, after, step):
            high = min(low + step, after)
            spans = self._ranges[self._code.block(low).start : self._code.block(high - 1).stop]
            if high - low == 1:
                if here := self._set(f"block_{low}", range(self._code.block(low).start, self._code.block(low).stop)):
                    branches.append(f"{here} {self._note(f'b{low}')} {_ON}")
            elif below := self._tree(low, high):
                around = self._sets.ranges(split_families([(spans[0][0], spans[-1][1])]))
                name = self._sets.define(f"around_{self._number}_{low}_{high}", "dst", around)
                branches.append(f"{name} {below}")
        return self._all_of(f"blocks_{first}_{after}", branches)

    def _digits(self, rounds: str) -> str:
        """Define what notes the digits of the place, until one is two things at once; it matches then."""
        questions = []
        for which in self._code.digits:
            members = self._partition(BASE, partial(self._code.digit, which))
            values = [(value, self._set(f"digit_{which}_{value}", some)) for value, some in enumerate(members)]
            values = [(value, here) for value, here in values if here]
            for at, (value, here) in enumerate(values):
                others = " ".join(other for _, other in values[at + 1 :])
                also = self._define(f"also_{which}_{value}", "any-of", [others]) if others else ""
                questions.append(f"{here} {self._note(f'd{which}.{value}')} {f'{also} {rounds}' if also else _ON}")
        return self._all_of("digits", questions)

    def _rounds(self) -> str:
        questions = [f"{self._note(MIXED)} {_ON}"]
        for turn in self._code.rounds:
            members = self._partition(self._code.parts, partial(self._code.part, turn))
            for low in range(0, len(members), PARTS_TOGETHER):
                together = list(enumerate(members))[low : low + PARTS_TOGETHER]
                named = [(part, self._set(f"part_{turn}_{part}", numbers)) for part, numbers in together]
                below = [f"{here} {self._note(f't{turn}.{part}')} {_ON}" for part, here in named if here]
                around = self._set(f"parts_{turn}_{low}", (number for _, numbers in together for number in numbers))
                if around:
                    questions.append(f"{around} {self._all_of(f'of_{turn}_{low}', below)}")
        return self._all_of("rounds", [*questions, "all"])

    def _partition(self, count: int, member: Callable[[int], int]) -> list[list[int]]:
        """Return the ranges in each of so many parts."""
        members: list[list[int]] = [[] for _ in range(count)]
        for number in range(self._code.count):
            members[member(number)].append(number)
        return members

    def _note(self, word: str) -> str:
        return self._sets.note(f"at_{word}", f"at+={word}")

    def _set(self, name: str, numbers: Iterable[int]) -> str:
        """Define a set of some ranges; return "" when Squid can see none of their addresses."""
        entries = self._sets.ranges(normal(self._ranges[number] for number in numbers))
        return self._sets.define(f"{name}_{self._number}", "dst", entries) if entries else ""

    def _all_of(self, name: str, questions: list[str]) -> str:
        """Define what matches where one of some conjunctions does; return "" when there is none."""
        return self._define(name, "all-of", questions)

    def _define(self, name: str, kind: str, lines: list[str]) -> str:
        name = f"{name}_{self._number}"
        self._sets.lines += [f"acl {name} {kind} {line}" for line in lines]
        return name if lines else ""
