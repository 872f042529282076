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

Clients: the lines of a section are compiled once for each branch of the tree of sections (``clients``), behind all of
what the branches above decided: no level comes before the last one of those.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from egress_router.config.embedded_ipv4 import is_isatap
from egress_router.policy.clients import Chains, Clients, clients_of
from egress_router.policy.compiled import AddressLine, CompiledPolicy, NamesAlone, Rule
from egress_router.policy.name_lines import suffixes
from egress_router.policy.ranges import Claims, Span, complement, embedding, normal, spans
from egress_router.policy.size import port_classes
from egress_router.policy.values import (
    ALWAYS_CLOSED,
    ANY_PORT,
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
    #: No line comes before it.
    least: int = 0

    def copy(self) -> _Levels:
        """Return the levels for lines that come behind all others."""
        least = max(self.highest.values(), default=0)
        return _Levels(self.highest.copy(), self.at.copy(), self.below.copy(), least)

    def place(self, line: PolicyLine) -> int:
        """Return the level of the next line and remember it. Even levels deny, odd ones allow."""
        other = Decision.DENY if line.decision is Decision.ALLOW else Decision.ALLOW
        about_address = isinstance(line.target, Block)
        after = self.highest[(not about_address, other)]
        if not about_address:
            after = max(after, self._related(line, other))
        level = max(after + 1, self.least)
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
    clients = clients_of(policy)
    closing = _Closing(policy, own, [to_block(network) for network in cluster])
    by_section: dict[int, list[PolicyLine]] = defaultdict(list)
    for line in policy.lines:
        by_section[line.section].append(line)
    rules = [((0, True), rule) for rule in closing.closed_to_some(clients)]
    allowed: list[tuple[str, ...] | None] = []
    for place, branch, chain in Chains(clients, lambda: _Chain(closing), _Chain.copy):
        mine = [replace(rule, clients=branch.clients, branch=place) for rule in chain.add(by_section[branch.section])]
        allowed.append(_allowed_names(mine))
        rules += [((rule.level, chain.comes_second(rule)), rule) for rule in mine]
    rules.sort(key=itemgetter(0))
    return CompiledPolicy(
        tuple(rule for _, rule in rules), tuple(_names_alone(clients, allowed)), tuple(closing.isatap), clients
    )


def _allowed_names(rules: Iterable[Rule]) -> tuple[str, ...] | None:
    """Return the names that rules allow; None when they allow by address or everything."""
    allowing = [rule for rule in rules if rule.decision is Decision.ALLOW]
    if any(rule.addresses or rule.everything for rule in allowing):
        return None
    return _uncovered({name for rule in allowing for name in rule.names})


def _names_alone(clients: Clients, allowed: Sequence[tuple[str, ...] | None]) -> Iterator[NamesAlone]:
    found: dict[tuple[int, ...], list[Span]] = defaultdict(list)
    for group in clients.groups:
        if all(allowed[branch] is not None for branch in group.branches):
            found[tuple(branch for branch in group.branches if allowed[branch])].extend(group.clients)
    for branches, ranges in found.items():
        names = tuple(names for branch in branches if (names := allowed[branch]))
        yield NamesAlone(None if len(clients.groups) == 1 else tuple(normal(ranges)), names)


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


class _Closing:
    """What is closed, and to whom lines open some of it: an address by a line for exactly it, a network of the cluster
    by a line for exactly that.
    """

    def __init__(self, policy: Policy, own: Iterable[Address], cluster: Sequence[Block]) -> None:
        closed = [span for _, block in ALWAYS_CLOSED for span in spans(block)]
        closed += [(to_number(address),) * 2 for address in own]
        closed += [span for block in cluster for span in spans(block)]
        self._closed = normal(closed)
        self._carrying = embedding(closed)
        self._others = complement([*self._closed, *self._carrying])
        self._opening = [
            _Opening(line.section, line.ports, spans(target), is_isatap(from_number(target.first)))
            for line in policy.lines
            if line.decision is Decision.ALLOW and isinstance(target := line.target, Block)
            if target.single or target in cluster
        ]
        self._sections = policy.sections

    @property
    def port_lists(self) -> list[Ports]:
        """The ports at which lines open something."""
        return [line.ports for line in self._opening]

    @property
    def isatap(self) -> list[Span]:
        """The addresses of ISATAP that lines open to anybody."""
        return [span for line in self._opening if line.isatap for span in line.spans]

    def closed(self, port: int) -> tuple[list[Span], list[Span]]:
        """Return what is closed to everybody at a port, and the addresses that carry it."""
        claims = Claims()
        claims.claim(span for line in self._opening if port in line.ports for span in line.spans)
        return claims.claim(self._closed), claims.claim(self._carrying)

    def closed_to_some(self, clients: Clients) -> list[Rule]:
        """Return rules that close what lines open in sections for others."""
        if all(self._sections[line.section].networks is None for line in self._opening):
            return []
        found: dict[tuple[Ports, tuple[Span, ...]], list[Span]] = defaultdict(list)
        classes = port_classes(self.port_lists)
        for group in clients.groups:
            sections = {clients.branches[branch].section for branch in group.branches}
            for ports in classes:
                if rest := self._closed_to(sections, ports.ranges[0][0]):
                    found[ports, rest].extend(group.clients)
            if rest := self._isatap_closed_to(sections):
                found[ANY_PORT, rest].extend(group.clients)
        return [
            Rule(0, Decision.DENY, ports, (), (AddressLine(0, rest),), clients=tuple(normal(ranges)), branch=None)
            for (ports, rest), ranges in found.items()
        ]

    def _closed_to(self, sections: set[int], port: int) -> tuple[Span, ...]:
        active = [line for line in self._opening if port in line.ports]
        claims = Claims()
        claims.claim(self._others)
        claims.claim(span for line in active if line.section in sections for span in line.spans)
        return tuple(claims.claim(normal(span for line in active for span in line.spans)))

    def _isatap_closed_to(self, sections: set[int]) -> tuple[Span, ...]:
        claims = Claims()
        claims.claim(span for line in self._opening if line.isatap and line.section in sections for span in line.spans)
        return tuple(claims.claim(normal(self.isatap)))


@dataclass(frozen=True, slots=True)
class _Opening:
    """A line that may open what is closed."""

    section: int
    ports: Ports
    spans: list[Span]
    isatap: bool


class _Chain:
    """What the lines of a branch and of those above it decided, for the lines behind them."""

    def __init__(self, closing: _Closing) -> None:
        self._closing = closing
        self._levels = _Levels()
        # The closed addresses are as good as deny lines in front of all others.
        self._levels.highest[True, Decision.DENY] = 0
        self._lists = closing.port_lists
        self._classes: dict[Ports, _Claimed] = {}
        #: The first level that allows by address.
        self._allowed_from: float = math.inf

    def copy(self) -> _Chain:
        """Return the same for lines of another branch."""
        other = _Chain(self._closing)
        other._levels = self._levels.copy()
        # Never changed in place.
        other._lists, other._classes = self._lists, self._classes
        other._allowed_from = self._allowed_from
        return other

    def comes_second(self, rule: Rule) -> bool:
        """Return whether a rule comes behind those of its level about the other kind (name, address).

        To the decision that is all the same. Names first saves a look into DNS; where that is made anyway, because an
        address might be allowed, addresses come first: a rule about names tells nothing of the lines about these.
        """
        looked_up = self._allowed_from < rule.level and rule.decision is Decision.DENY
        return bool(rule.addresses) is not looked_up

    def add(self, lines: Sequence[PolicyLine]) -> list[Rule]:
        """Return the rules for lines behind all others."""
        placed = [(self._levels.place(line), line) for line in lines]
        rules = _name_rules(placed)
        about = [(level, line, line.target) for level, line in placed if isinstance(line.target, Block)]
        if self._classes and not about:
            return rules
        self._lists = list(dict.fromkeys([*self._lists, *(line.ports for _, line, _ in about)]))
        classes: dict[Ports, _Claimed] = {}
        for ports in port_classes(self._lists):
            port = ports.ranges[0][0]
            above = next((claimed for wider, claimed in self._classes.items() if port in wider), None)
            classes[ports] = _Claimed(*self._closing.closed(port)) if above is None else above.copy()
            rules += classes[ports].rules(ports, [entry for entry in about if port in entry[1].ports])
        self._classes = classes
        allowing = (rule.level for rule in rules if rule.addresses and rule.decision is Decision.ALLOW)
        self._allowed_from = min([self._allowed_from, *allowing])
        return rules


class _Claimed:
    """Which addresses are claimed at a class of ports, and which are decided."""

    def __init__(self, closed: list[Span], carrying: list[Span]) -> None:
        self._claims = Claims()
        self._claims.claim([*closed, *carrying])
        self._decided: list[Span] = []
        #: Until it is in a rule.
        self._closed: tuple[list[Span], list[Span]] | None = (closed, carrying)

    def copy(self) -> _Claimed:
        """Return one that changes on its own."""
        other = _Claimed([], [])
        other._claims, other._decided, other._closed = self._claims.copy(), self._decided, self._closed
        return other

    def rules(self, ports: Ports, active: Sequence[tuple[int, PolicyLine, Block]]) -> list[Rule]:
        """Return the rules for lines, with their levels and blocks, behind all that is claimed."""
        by_level: dict[int, list[AddressLine]] = defaultdict(list)
        embedded: dict[int, list[AddressLine]] = defaultdict(list)
        if self._closed:
            by_level[0].append(AddressLine(0, tuple(self._closed[0])))
            embedded[0].append(AddressLine(0, tuple(self._closed[1])))
            self._closed = None
        for level, line, block in active:
            ranges = self._claims.claim(spans(block))
            if ranges:
                by_level[level].append(AddressLine(line.number, tuple(ranges)))
            if line.decision is Decision.DENY and (carrying := self._claims.claim(embedding(ranges))):
                embedded[level].append(AddressLine(line.number, tuple(carrying)))
        rules = []
        for level in sorted({*by_level, *embedded}):
            mine = by_level[level]
            # Without those embedded: every rule that allows comes after the one that denies them, or before any of
            # theirs.
            self._decided = normal([*self._decided, *(span for line in mine for span in line.ranges)])
            allow = level % 2 == 1
            decision = Decision.ALLOW if allow else Decision.DENY
            if mine:
                outside = tuple(complement(self._decided)) if allow else ()
                rules.append(Rule(level, decision, ports, (), tuple(mine), outside, numbers=_numbers(mine)))
            if any(line.ranges for line in embedded[level]):
                numbers = _numbers(embedded[level])
                rules.append(Rule(level, decision, ports, (), tuple(embedded[level]), numbers=numbers, embedded=True))
        return rules


def _numbers(lines: Iterable[AddressLine]) -> tuple[int, ...]:
    return tuple(line.number for line in lines if line.number)
