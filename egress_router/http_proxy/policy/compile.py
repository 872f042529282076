"""The policy as few rules over large sets, with exactly the meaning of its lines taken one by one; and which lines can
never match.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from egress_router.config.embedded_ipv4 import is_isatap
from egress_router.errors import Problem
from egress_router.http_proxy.policy.values import (
    ALWAYS_CLOSED,
    Address,
    AddressLine,
    Anything,
    Block,
    Claims,
    CompiledPolicy,
    Decision,
    HttpPolicy,
    Name,
    Network,
    PolicyLine,
    Ports,
    Rule,
    Span,
    complement,
    embedding,
    from_number,
    normal,
    port_classes,
    spans,
    to_block,
    to_number,
)

# A tree of host names, to find in a few steps which earlier lines a name has to do with.


def suffixes(name: str) -> Iterator[str]:
    """Yield the name itself and every domain above it, the root ("") last."""
    yield name
    while name:
        name = name.partition(".")[2]
        yield name


@dataclass(slots=True)
class NameLines:
    """Lines by name. ``*`` stands at the root with all names under it."""

    exact: dict[str, list[PolicyLine]] = field(default_factory=dict)
    under: dict[str, list[PolicyLine]] = field(default_factory=dict)

    def add(self, line: PolicyLine) -> None:
        """Add a line about a name or about everything."""
        if isinstance(line.target, Name) and not line.target.subdomains:
            self.exact.setdefault(line.target.name, []).append(line)
        else:
            name = line.target.name if isinstance(line.target, Name) else ""
            self.under.setdefault(name, []).append(line)

    def covering(self, name: str, subdomains: bool) -> Iterator[PolicyLine]:
        """Yield the lines that match the name (with ``subdomains``: and everything under it)."""
        if not subdomains:
            yield from self.exact.get(name, ())
        for suffix in suffixes(name):
            yield from self.under.get(suffix, ())

    def first(self, host: str, port: int) -> PolicyLine | None:
        """Return the first line that matches a host name at a port."""
        matching = (line for line in self.covering(host, subdomains=False) if port in line.ports)
        return min(matching, key=lambda line: line.number, default=None)


# The policy as few rules over large sets, with exactly the meaning of its lines taken one by one.
#
# Squid walks its rules one by one, but looks into a set of names or addresses in logarithmic time. So lines are
# gathered into *levels* of one decision each:
#
# - A line comes in a later level than every earlier line of the other decision that may match the same request.
#   Name lines meet where one covers the other; a name line and an address line always may; address lines never do,
#   because each address belongs to the first line that claims it.
# - Squid's ``dst`` is true when *any* address of a name is in the set. Denying by it is right as it is. An allowing
#   address rule asks instead that *no* address is outside of all that was decided so far: `outside`. With that, a
#   request is allowed exactly when every address is (``http_evaluate`` says it in plain words).
#
# Ports: names are grouped by their port list. Addresses are claimed separately for each class of ports that the
# address lines tell apart.


@dataclass(slots=True)
class _Levels:
    """The level that each kind of line must at least have, by decision."""

    highest: dict[tuple[bool, Decision], int] = field(default_factory=lambda: defaultdict(lambda: -1))
    at: dict[tuple[str, bool, Decision], int] = field(default_factory=lambda: defaultdict(lambda: -1))
    below: dict[tuple[str, Decision], int] = field(default_factory=lambda: defaultdict(lambda: -1))

    def place(self, line: PolicyLine) -> int:
        """Return the level of the next line and remember it. Even levels deny, odd ones allow."""
        other = Decision.DENY if line.decision is Decision.ALLOW else Decision.ALLOW
        about_address = isinstance(line.target, Block)
        after = self.highest[(not about_address, other)]
        if not about_address:
            after = max(after, self._related(line, other))
        level = after + 1
        if level % 2 != (line.decision is Decision.ALLOW):
            level += 1
        self._remember(line, about_address, level)
        return level

    def _related(self, line: PolicyLine, other: Decision) -> int:
        name, subdomains = _tree_place(line)
        above = [self.at[suffix, True, other] for suffix in suffixes(name)]
        return max([*above, self.at[name, False, other], self.below[name, other] if subdomains else -1])

    def _remember(self, line: PolicyLine, about_address: bool, level: int) -> None:
        kind = (about_address, line.decision)
        self.highest[kind] = max(self.highest[kind], level)
        if about_address:
            return
        name, subdomains = _tree_place(line)
        key = (name, subdomains, line.decision)
        self.at[key] = max(self.at[key], level)
        for suffix in suffixes(name):
            self.below[suffix, line.decision] = max(self.below[suffix, line.decision], level)


def _tree_place(line: PolicyLine) -> tuple[str, bool]:
    return (line.target.name, line.target.subdomains) if isinstance(line.target, Name) else ("", True)


def compile_policy(policy: HttpPolicy, own: Iterable[Address] = (), cluster: Iterable[Network] = ()) -> CompiledPolicy:
    """Return the rules for a policy in a pod that has the addresses ``own``, and whose routes lead into the ``cluster``
    for these networks. The result depends on nothing else.
    """
    levels = _Levels()
    # The closed addresses are as good as deny lines in front of all others.
    levels.highest[True, Decision.DENY] = 0
    placed = [(levels.place(line), line) for line in policy.lines]
    rules = [*_name_rules(placed), *_address_rules(placed, own, [to_block(network) for network in cluster])]
    # Within a level the order does not matter; names first saves a look into DNS.
    rules.sort(key=lambda rule: (rule.level, bool(rule.addresses)))
    allowing = [rule for rule in rules if rule.decision is Decision.ALLOW]
    by_name = not any(rule.addresses or rule.everything for rule in allowing)
    allowed = _uncovered({name for rule in allowing for name in rule.names}) if by_name else None
    return CompiledPolicy(tuple(rules), allowed, tuple(_opened_isatap(policy)))


def _opened_isatap(policy: HttpPolicy) -> Iterator[Span]:
    for line in policy.lines:
        target = line.target
        allowed = line.decision is Decision.ALLOW and isinstance(target, Block) and target.single
        if allowed and isinstance(target, Block) and is_isatap(from_number(target.first)):
            yield target.first, target.last


def _name_rules(placed: Sequence[tuple[int, PolicyLine]]) -> list[Rule]:
    groups: dict[tuple[int, Ports, bool], list[PolicyLine]] = defaultdict(list)
    for level, line in placed:
        if not isinstance(line.target, Block):
            groups[level, line.ports, isinstance(line.target, Anything)].append(line)
    rules = []
    for (level, ports, everything), lines in groups.items():
        names = {_squid_name(line.target) for line in lines if isinstance(line.target, Name)}
        numbers = tuple(line.number for line in lines)
        rules.append(
            Rule(level, lines[0].decision, ports, names=_uncovered(names), everything=everything, numbers=numbers)
        )
    return rules


def _squid_name(name: Name) -> str:
    return f".{name.name}" if name.subdomains else name.name


def _uncovered(names: set[str]) -> tuple[str, ...]:
    """Return the names without those that another one covers: Squid refuses or drops entries that overlap."""
    kept = []
    for name in names:
        bare = name.removeprefix(".")
        above = suffixes(bare.partition(".")[2]) if name.startswith(".") else suffixes(bare)
        if not any("." + suffix in names for suffix in above if suffix):
            kept.append(name)
    return tuple(sorted(kept))


def _address_rules(
    placed: Sequence[tuple[int, PolicyLine]], own: Iterable[Address], cluster: Sequence[Block]
) -> list[Rule]:
    lines = [(level, line, line.target) for level, line in placed if isinstance(line.target, Block)]
    closed = [span for _, block in ALWAYS_CLOSED for span in spans(block)]
    closed += [(to_number(address),) * 2 for address in own]
    closed += [span for block in cluster for span in spans(block)]
    rules: list[Rule] = []
    for ports in port_classes([line.ports for _, line, _ in lines]):
        active = [(level, line, block) for level, line, block in lines if ports.ranges[0][0] in line.ports]
        opening = [block for _, line, block in active if line.decision is Decision.ALLOW]
        opened = [span for block in opening if block.single or block in cluster for span in spans(block)]
        rules += _rules_of_class(ports, active, normal(closed), opened)
    return rules


def _rules_of_class(
    ports: Ports, active: Sequence[tuple[int, PolicyLine, Block]], closed: list[Span], opened: Iterable[Span]
) -> list[Rule]:
    claims = Claims()
    reserved = Claims()
    reserved.claim(opened)
    always = reserved.claim(closed)
    carrying = reserved.claim(embedding(closed))
    claims.claim([*always, *carrying])
    by_level: dict[int, list[AddressLine]] = defaultdict(list)
    embedded: dict[int, list[AddressLine]] = defaultdict(list)
    by_level[0].append(AddressLine(0, tuple(always)))
    embedded[0].append(AddressLine(0, tuple(carrying)))
    for level, line, block in active:
        ranges = claims.claim(spans(block))
        if ranges:
            by_level[level].append(AddressLine(line.number, tuple(ranges)))
        if line.decision is Decision.DENY and (carrying := claims.claim(embedding(ranges))):
            embedded[level].append(AddressLine(line.number, tuple(carrying)))
    rules = []
    decided: list[Span] = []
    for level in sorted({*by_level, *embedded}):
        mine = by_level[level]
        # Without those embedded: every rule that allows comes after the one that denies them, or before any of theirs.
        decided = normal([*decided, *(span for line in mine for span in line.ranges)])
        allow = level % 2 == 1
        decision = Decision.ALLOW if allow else Decision.DENY
        if mine:
            outside = tuple(complement(decided)) if allow else ()
            rules.append(Rule(level, decision, ports, (), tuple(mine), outside, numbers=_numbers(mine)))
        if any(line.ranges for line in embedded[level]):
            numbers = _numbers(embedded[level])
            rules.append(Rule(level, decision, ports, (), tuple(embedded[level]), numbers=numbers, embedded=True))
    return rules


def _numbers(lines: Iterable[AddressLine]) -> tuple[int, ...]:
    return tuple(line.number for line in lines if line.number)


# Lines that can never match because earlier lines match everything they would.


#: A warning names one line less than this, and says when there are more.
MOST_NAMED = 6


def shadow_warnings(policy: HttpPolicy) -> list[Problem]:
    """Return a warning for each line that can never match."""
    return [
        Problem(policy.variable, line.number, line.text, f"can never match, since {_listed(earlier)} first")
        for line, earlier in shadowed_lines(policy)
    ]


def _listed(numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]} matches"
    return f"lines {', '.join(map(str, numbers[: MOST_NAMED - 1]))}{' …' if len(numbers) >= MOST_NAMED else ''} match"


def shadowed_lines(policy: HttpPolicy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    """Return each line that can never match, with the numbers of the lines in front that cover it.

    Of many numbers the first MOST_NAMED. For an address line they are those of overlapping lines. A name line counts as
    covered by name lines only: address lines never match a name that does not resolve.
    """
    found = [*_shadowed_names(policy), *_shadowed_addresses(policy)]
    return sorted(found, key=lambda pair: pair[0].number)


def _shadowed_names(policy: HttpPolicy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    #: By name, and whether everything under it is meant: the ports that are taken, and by which lines.
    earlier: dict[tuple[str, bool], _Taken] = {}
    found = []
    for line in policy.lines:
        if isinstance(line.target, Block):
            continue
        name, subdomains = (line.target.name, line.target.subdomains) if isinstance(line.target, Name) else ("", True)
        keys = [(suffix, True) for suffix in suffixes(name)] + ([] if subdomains else [(name, False)])
        covering = [taken for key in keys if (taken := earlier.get(key)) is not None]
        if covering and all(_taken(covering, first, last) for first, last in line.ports.ranges):
            numbers = sorted(number for taken in covering for number in taken.numbers)
            found.append((line, tuple(numbers[:MOST_NAMED])))
        earlier.setdefault((name, subdomains), _Taken()).add(line)
    return found


class _Taken:
    """Ports that lines about one target claim: sorted, disjoint ranges, and the numbers of the first lines."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, line: PolicyLine) -> None:
        if len(self.numbers) < MOST_NAMED:
            self.numbers.append(line.number)
        for first, last in line.ports.ranges:
            low, high = bisect_left(self._lasts, first - 1), bisect_right(self._firsts, last + 1)
            joined = [first, *self._firsts[low:high]], [last, *self._lasts[low:high]]
            self._firsts[low:high], self._lasts[low:high] = [min(joined[0])], [max(joined[1])]

    def until(self, port: int) -> int:
        """Return the last port of the range with ``port``; 0 when it is in none."""
        at = bisect_right(self._firsts, port) - 1
        return self._lasts[at] if at >= 0 and self._lasts[at] >= port else 0


def _taken(covering: list[_Taken], first: int, last: int) -> bool:
    """Return whether all ports from ``first`` to ``last`` are claimed by one or the other."""
    while first <= last:
        until = max(taken.until(first) for taken in covering)
        if not until:
            return False
        first = until + 1
    return True


def _shadowed_addresses(policy: HttpPolicy) -> list[tuple[PolicyLine, tuple[int, ...]]]:
    lines = [line for line in policy.lines if isinstance(line.target, Block)]
    alive: set[int] = set()
    for ports in port_classes([line.ports for line in lines]):
        claims = Claims()
        for line in lines:
            if ports.ranges[0][0] in line.ports and isinstance(line.target, Block) and claims.claim(spans(line.target)):
                alive.add(line.number)
    dead = [line for line in lines if line.number not in alive]
    overlapping = _Overlaps(lines)
    return [(line, overlapping.before(line)) for line in dead]


class _Overlaps:
    """Which lines overlap a line. Networks lie in each other or apart, so they are a tree: what overlaps one of them is
    above it (at most as many as an address has bits) or below it, and of those below the first few are kept.
    """

    def __init__(self, lines: list[PolicyLine]) -> None:
        at: dict[tuple[int, int], list[int]] = {}
        for line in lines:
            if isinstance(line.target, Block):
                at.setdefault((line.target.first, line.target.last), []).append(line.number)
        self._up: dict[tuple[int, int], tuple[int, int] | None] = {}
        self._own = {block: sorted(numbers)[:MOST_NAMED] for block, numbers in at.items()}
        self._below = dict(self._own)
        path: list[tuple[int, int]] = []
        # Wide ones before the narrow ones in them.
        for block in sorted(at, key=lambda block: (block[0], -block[1])):
            while path and path[-1][1] < block[0]:
                self._leave(path)
            self._up[block] = path[-1] if path else None
            path.append(block)
        while path:
            self._leave(path)

    def _leave(self, path: list[tuple[int, int]]) -> None:
        block = path.pop()
        if path:
            self._below[path[-1]] = sorted(self._below[path[-1]] + self._below[block])[:MOST_NAMED]

    def before(self, line: PolicyLine) -> tuple[int, ...]:
        """Return the numbers of the first MOST_NAMED lines in front of ``line`` that overlap it."""
        assert isinstance(line.target, Block)  # noqa: S101 - only such lines are asked for
        block = (line.target.first, line.target.last)
        found = list(self._below[block])
        while (above := self._up[block]) is not None:
            block = above
            found += self._own[block]
        return tuple(sorted({number for number in found if number < line.number})[:MOST_NAMED])
