"""EGRESS_DESTINATION: redirect rules, one a line.

::

    PORTS PROTOCOL ADDRESS [PORTS]     redirect
    ADDRESS                            fallback, last, one per family
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from egress_router.config import fields
from egress_router.config.fields import Wrong
from egress_router.config.inputs import Inputs, Line, Problems, SourceText
from egress_router.errors import quoted
from egress_router.model.addresses import Address, Family, Interface, family_of
from egress_router.model.router import Fallback, Protocol, Redirect, Ruleset

VARIABLE = "EGRESS_DESTINATION"
EXPECTED_LINE = 'PORT PROTOCOL ADDRESS [PORT], as in "8080 tcp 203.0.113.26 80", or an address alone as the last line'
EXPECTED_HOST = "the address of a server outside"
EXPECTED_ADDRESS = "an address such as 203.0.113.25 or 2001:db8::25, not a host name"
PROTOCOLS = {str(protocol): protocol for protocol in Protocol}


def parse_rules(inputs: Inputs, sources: dict[Family, Interface], problems: Problems, *, required: bool) -> Ruleset:
    """Return the redirect rules of EGRESS_DESTINATION or EGRESS_DESTINATION_FILE.

    Every problem of every line is noted: form, numbers, addresses that cannot be a destination or whose family has no
    EGRESS_SOURCE (unless ``sources`` is empty: then they are not known), overlapping claims, a fallback that is not
    last. With ``required``, no rule at all is a problem.
    """
    before = len(problems.errors)
    source = inputs.list_text(VARIABLE, problems)
    if source is None:
        if required and len(problems.errors) == before:
            problems.error(VARIABLE, None, "", "is not set", EXPECTED_LINE)
        return Ruleset()
    redirects: list[Redirect] = []
    fallbacks: list[Fallback] = []
    reader = _Reader(source, sources, problems)
    seen = False
    for line in source.lines():
        seen = True
        rule = reader.rule(line)
        if fallbacks and len(line.words) > 1:
            reader.error(line, f"stands after the fallback of line {fallbacks[-1].line}", "put fallbacks last")
        if isinstance(rule, Redirect):
            redirects.append(rule)
        elif rule is not None:
            twin = next((other for other in fallbacks if other.family == rule.family), None)
            if twin is not None:
                reader.error(line, f"is a second {rule.family} fallback, line {twin.line} is one", "one per family")
            fallbacks.append(rule)
    if required and not seen:
        problems.error(source.variable, None, "", "has no rule", EXPECTED_LINE)
    _report_overlaps(redirects, source, problems)
    return Ruleset(tuple(redirects), tuple(fallbacks))


class _Reader:
    """Reads single lines; keeps what all of them need."""

    def __init__(self, source: SourceText, sources: dict[Family, Interface], problems: Problems) -> None:
        self._source = source
        self._sources = sources
        self._problems = problems
        self._addresses: dict[str, Address | tuple[str, str]] = {}

    def error(self, line: Line, message: str, expected: str) -> None:
        """Note a problem of ``line``."""
        self._problems.error(self._source.variable, line.number, line.text, message, expected)

    def rule(self, line: Line) -> Redirect | Fallback | None:
        """Return what the line says; None when it says nothing usable."""
        words = line.words
        if len(words) == 1 and isinstance(fields.port_range(words[0]), Wrong):
            destination = self._destination(line, words[0])
            return None if destination is None else Fallback(line.number, destination)
        if len(words) not in (3, 4):
            self.error(line, f"has {len(words)} word{'s' * (len(words) > 1)}", EXPECTED_LINE)
            return None
        ports = fields.port_range(words[0])
        if isinstance(ports, Wrong):
            self.error(line, ports, f"{fields.EXPECTED_PORT}, or two of them as FIRST-LAST")
        protocol = PROTOCOLS.get(words[1].lower())
        if protocol is None:
            self.error(line, f"{quoted(words[1])} is not a protocol", f"one of {', '.join(PROTOCOLS)}")
        destination = self._destination(line, words[2])
        to_ports = fields.port_range(words[3]) if len(words) == 4 else ports
        if len(words) == 4 and isinstance(to_ports, Wrong):
            self.error(line, to_ports, f"{fields.EXPECTED_PORT}, or two of them as FIRST-LAST")
        if isinstance(ports, Wrong) or isinstance(to_ports, Wrong) or protocol is None or destination is None:
            return None
        if len(ports) != len(to_ports):
            message = f"maps {len(ports)} port{'s' * (len(ports) > 1)} to {len(to_ports)}"
            self.error(line, message, "as many ports on the right as on the left")
            return None
        return Redirect(line.number, protocol, ports, destination, to_ports)

    def _destination(self, line: Line, text: str) -> Address | None:
        # Many lines name the same few addresses.
        found = self._addresses.get(text)
        if found is None:
            found = self._addresses[text] = self._read(text)
        if isinstance(found, tuple):
            self.error(line, *found)
            return None
        return found

    def _read(self, text: str) -> Address | tuple[str, str]:
        value = fields.address(text)
        if isinstance(value, Wrong):
            return value, EXPECTED_ADDRESS
        unusable = self._unusable(value)
        return value if unusable is None else (f'"{value}" {unusable[0]}', unusable[1])

    def _unusable(self, value: Address) -> tuple[str, str] | None:
        """Return what is wrong with an address as a destination, and what would be right."""
        kind = fields.not_a_host(value)
        if value.version == 6 and value.is_link_local:
            kind = "link-local"
        if kind:
            return f"cannot be a destination: it is {kind}", EXPECTED_HOST
        if any(value == source.ip for source in self._sources.values()):
            return "is EGRESS_SOURCE itself", EXPECTED_HOST
        family = family_of(value)
        if self._sources and family not in self._sources:
            return f"is {family}, but EGRESS_SOURCE has no {family} address", f"set one, or use {self._families()} only"
        return None

    def _families(self) -> str:
        return " and ".join(map(str, self._sources))


def _report_overlaps(redirects: list[Redirect], source: SourceText, problems: Problems) -> None:
    """Note every redirect that claims a port which an earlier line claims."""
    claims: dict[tuple[Family, Protocol], list[Redirect]] = {}
    for rule in redirects:
        claims.setdefault((rule.family, rule.protocol), []).append(rule)
    for same in claims.values():
        if not _overlap(same):
            continue
        for rule, port, owner in _shared_ports(same):
            message = f"claims {rule.protocol} port {port}, which line {owner} claims"
            problems.error(source.variable, rule.line, str(rule), message, "one line per protocol and port")


def _overlap(rules: list[Redirect]) -> bool:
    ports = sorted(rule.ports for rule in rules)
    return any(before.last >= after.first for before, after in pairwise(ports))


def _shared_ports(rules: list[Redirect]) -> Iterator[tuple[Redirect, int, int]]:
    """Yield each rule that shares ports with earlier ones, the lowest of these ports, and the line that has it.

    ``skip`` leads past claimed ports, so that each port is claimed once, however many ranges hold it.
    """
    owners: dict[int, int] = {}
    skip: dict[int, int] = {}
    for rule in rules:
        shared: int | None = None
        port = rule.ports.first
        while port <= rule.ports.last:
            if port in owners:
                shared = port if shared is None else shared
                port = _free_from(port, skip)
            else:
                owners[port] = rule.line
                skip[port] = port + 1
                port += 1
        if shared is not None:
            yield rule, shared, owners[shared]


def _free_from(port: int, skip: dict[int, int]) -> int:
    """Return the first port from ``port`` on that nobody claims, and shorten the way there for the next time."""
    free = port
    while free in skip:
        free = skip[free]
    while port in skip:
        skip[port], port = free, skip[port]
    return free
