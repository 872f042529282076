"""EGRESS_DESTINATION: redirect rules, one a line.

::

    PORTS PROTOCOL ADDRESS [PORTS]     redirect
    ADDRESS                            fallback, last, one per family

For a router that stays, a host name may stand where an address stands; it has both families.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from egress_router.config import fields
from egress_router.config.fields import Invalid, host_name
from egress_router.config.inputs import Inputs, Line, Problems, SourceText
from egress_router.config.values import Address, Family, HostName, Interface, Protocol, family_of
from egress_router.errors import quoted
from egress_router.redirect.values import Fallback, NamedFallback, NamedRedirect, Redirect, Ruleset

VARIABLE = "EGRESS_DESTINATION"
EXPECTED_LINE = 'PORT PROTOCOL ADDRESS [PORT], as in "8080 tcp 203.0.113.26 80", or an address alone as the last line'
EXPECTED_HOST = "the address of a server outside"
EXPECTED_ADDRESS = "an address such as 203.0.113.25 or 2001:db8::25"
EXPECTED_DESTINATION = f"{EXPECTED_ADDRESS}, or a host name such as api.example.com"
EXPECTED_RUN = f"{EXPECTED_ADDRESS}; `egress-router run` takes names (EGRESS_ROUTER_MODE unset, or legacy)"
#: nft cannot shift a range of ports: each port is an element, for each address of the name.
MAX_SHIFTED = 1000
PROTOCOLS = {str(protocol): protocol for protocol in Protocol}


def parse_rules(
    inputs: Inputs, sources: dict[Family, Interface], problems: Problems, *, required: bool, names: bool = False
) -> Ruleset:
    """Return the redirect rules of EGRESS_DESTINATION or EGRESS_DESTINATION_FILE.

    Every problem of every line is noted: form, numbers, addresses that cannot be a destination or whose family has no
    EGRESS_SOURCE (unless ``sources`` is empty: then they are not known), overlapping claims, a fallback that is not
    last, and without ``names`` a name. With ``required``, no rule at all is a problem.
    """
    before = len(problems.errors)
    source = inputs.list_text(VARIABLE, problems)
    if source is None:
        if required and len(problems.errors) == before:
            problems.error(VARIABLE, None, "", "is not set", EXPECTED_LINE)
        return Ruleset()
    redirects: list[Redirect | NamedRedirect] = []
    fallbacks: list[Fallback | NamedFallback] = []
    reader = _Reader(source, sources, problems, names=names)
    seen = False
    for line in source.lines():
        seen = True
        rule = reader.rule(line)
        if fallbacks and len(line.words) > 1:
            reader.error(line, f"stands after the fallback of line {fallbacks[-1].line}", "put fallbacks last")
        if isinstance(rule, Redirect | NamedRedirect):
            redirects.append(rule)
        elif rule is not None:
            twin = next(((f, other) for f in _families(rule) for other in fallbacks if f in _families(other)), None)
            if twin is not None:
                reader.error(line, f"is a second {twin[0]} fallback, line {twin[1].line} is one", "one per family")
            fallbacks.append(rule)
    if required and not seen:
        problems.error(source.variable, None, "", "has no rule", EXPECTED_LINE)
    _report_overlaps(redirects, source, problems)
    return Ruleset(
        tuple(rule for rule in redirects if isinstance(rule, Redirect)),
        tuple(rule for rule in fallbacks if isinstance(rule, Fallback)),
        tuple(rule for rule in redirects if isinstance(rule, NamedRedirect)),
        next((rule for rule in fallbacks if isinstance(rule, NamedFallback)), None),
    )


def _families(rule: Redirect | NamedRedirect | Fallback | NamedFallback) -> tuple[Family, ...]:
    return (rule.family,) if isinstance(rule, Redirect | Fallback) else tuple(Family)


class _Reader:
    """Reads single lines; keeps what all of them need."""

    def __init__(
        self, source: SourceText, sources: dict[Family, Interface], problems: Problems, *, names: bool
    ) -> None:
        self._source = source
        self._sources = sources
        self._problems = problems
        self._names = names
        self._hosts: dict[str, Address | HostName | tuple[str, str]] = {}

    def error(self, line: Line, message: str, expected: str) -> None:
        """Note a problem of ``line``."""
        self._problems.error(self._source.variable, line.number, line.text, message, expected)

    def rule(self, line: Line) -> Redirect | NamedRedirect | Fallback | NamedFallback | None:
        """Return what the line says; None when it says nothing usable."""
        words = line.words
        if len(words) == 1 and isinstance(fields.port_range(words[0]), Invalid):
            destination = self._destination(line, words[0])
            if isinstance(destination, HostName):
                return NamedFallback(line.number, destination)
            return None if destination is None else Fallback(line.number, destination)
        if len(words) not in (3, 4):
            self.error(line, f"has {len(words)} word{'s' * (len(words) > 1)}", EXPECTED_LINE)
            return None
        ports = fields.port_range(words[0])
        if isinstance(ports, Invalid):
            self.error(line, ports, f"{fields.EXPECTED_PORT}, or two of them as FIRST-LAST")
        protocol = PROTOCOLS.get(words[1].lower())
        if protocol is None:
            self.error(line, f"{quoted(words[1])} is not a protocol", f"one of {', '.join(PROTOCOLS)}")
        destination = self._destination(line, words[2])
        to_ports = fields.port_range(words[3]) if len(words) == 4 else ports
        if len(words) == 4 and isinstance(to_ports, Invalid):
            self.error(line, to_ports, f"{fields.EXPECTED_PORT}, or two of them as FIRST-LAST")
        if isinstance(ports, Invalid) or isinstance(to_ports, Invalid) or protocol is None or destination is None:
            return None
        if len(ports) != len(to_ports):
            message = f"maps {len(ports)} port{'s' * (len(ports) > 1)} to {len(to_ports)}"
            self.error(line, message, "as many ports on the right as on the left")
            return None
        if not isinstance(destination, HostName):
            return Redirect(line.number, protocol, ports, destination, to_ports)
        if ports != to_ports and len(ports) > MAX_SHIFTED:
            message = f"maps {len(ports)} ports to other ones of a name, {MAX_SHIFTED} are the most"
            self.error(line, message, "the same ports on both sides, or several names")
            return None
        return NamedRedirect(line.number, protocol, ports, destination, to_ports)

    def _destination(self, line: Line, text: str) -> Address | HostName | None:
        # Many lines name the same few addresses.
        found = self._hosts.get(text)
        if found is None:
            found = self._hosts[text] = self._read(text)
        if isinstance(found, tuple):
            self.error(line, *found)
            return None
        return found

    def _read(self, text: str) -> Address | HostName | tuple[str, str]:
        value = fields.address(text)
        if isinstance(value, Invalid):
            return self._read_name(text, value)
        unusable = self._unusable(value)
        return value if unusable is None else (f'"{value}" {unusable[0]}', unusable[1])

    def _read_name(self, text: str, wrong: Invalid) -> HostName | tuple[str, str]:
        """Read what is no address, ``wrong`` says why."""
        expected = EXPECTED_DESTINATION if self._names else EXPECTED_ADDRESS
        if ":" in text or "/" in text or set(text) <= set("0123456789."):
            return wrong, expected
        name = host_name(text)
        if isinstance(name, Invalid):
            return (name if self._names else wrong), expected
        if not self._names:
            return f"{quoted(text)} is a name: nobody looks it up again once the router is set up", EXPECTED_RUN
        return name

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


def _report_overlaps(redirects: list[Redirect | NamedRedirect], source: SourceText, problems: Problems) -> None:
    """Note every redirect that claims a port which an earlier line claims, once."""
    claims: dict[tuple[Family, Protocol], list[Redirect | NamedRedirect]] = {}
    for rule in redirects:
        for family in _families(rule):
            claims.setdefault((family, rule.protocol), []).append(rule)
    reported: set[tuple[int, int]] = set()
    for same in claims.values():
        if not _overlap(same):
            continue
        for rule, port, owner in _shared_ports(same):
            if (rule.line, owner) in reported:
                continue
            reported.add((rule.line, owner))
            message = f"claims {rule.protocol} port {port}, which line {owner} claims"
            problems.error(source.variable, rule.line, str(rule), message, "one line per protocol and port")


def _overlap(rules: list[Redirect | NamedRedirect]) -> bool:
    ports = sorted(rule.ports for rule in rules)
    return any(before.last >= after.first for before, after in pairwise(ports))


def _shared_ports(
    rules: list[Redirect | NamedRedirect],
) -> Iterator[tuple[Redirect | NamedRedirect, int, int]]:
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
