"""The policy as few rules over large sets, with exactly the meaning of its lines taken one by one.

Squid walks its rules one by one, but looks into a set of names or addresses in logarithmic time. So lines are
gathered into *levels* of one decision each:

- A line comes in a later level than every earlier line of the other decision that may match the same request.
  Name lines meet where one covers the other; a name line and an address line always may; address lines never do,
  because each address belongs to the first line that claims it.
- Squid's ``dst`` is true when *any* address of a name is in the set. Denying by it is right as it is. An allowing
  address rule asks instead that *no* address is outside of all that was decided so far: `outside`. With that, a
  request is allowed exactly when every address is (``evaluate`` says it in plain words).

Ports: names are grouped by their port list. Addresses are claimed separately for each class of ports that the
address lines tell apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from egress_router.config.embedded_ipv4 import is_isatap
from egress_router.policy.compiled import AddressLine, CompiledPolicy, Rule
from egress_router.policy.name_lines import suffixes
from egress_router.policy.ranges import Claims, Span, complement, embedding, normal, spans
from egress_router.policy.size import port_classes
from egress_router.policy.values import (
    ALWAYS_CLOSED,
    Address,
    Anything,
    Block,
    Decision,
    Name,
    Network,
    Policy,
    PolicyLine,
    Ports,
    from_number,
    to_block,
    to_number,
)


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


def compile_policy(policy: Policy, own: Iterable[Address] = (), cluster: Iterable[Network] = ()) -> CompiledPolicy:
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


def _opened_isatap(policy: Policy) -> Iterator[Span]:
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
