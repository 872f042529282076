"""EGRESS_DESTINATION: redirect rules, one a line.

::

    PORTS PROTOCOL ADDRESS [PORTS]     redirect
    ADDRESS                            fallback, last, one per family
"""

from __future__ import annotations

from operator import itemgetter

from egress_router.config import fields
from egress_router.config.fields import Wrong
from egress_router.config.inputs import Inputs, Line, Problems, SourceText
from egress_router.model.addresses import Address, Family, Interface, family_of
from egress_router.model.router import Fallback, Protocol, Redirect, Ruleset

VARIABLE = "EGRESS_DESTINATION"
EXPECTED_LINE = 'PORT PROTOCOL ADDRESS [PORT], as in "8080 tcp 203.0.113.26 80", or an address alone as the last line'
EXPECTED_ADDRESS = "an address such as 203.0.113.25 or 2001:db8::25, not a host name"
PROTOCOLS = {str(protocol): protocol for protocol in Protocol}


def parse_rules(inputs: Inputs, sources: dict[Family, Interface], problems: Problems, *, required: bool) -> Ruleset:
    """Return the redirect rules of EGRESS_DESTINATION or EGRESS_DESTINATION_FILE.

    Every problem of every line is noted: form, numbers, addresses that cannot be a destination or whose family has no
    EGRESS_SOURCE, overlapping claims, a fallback that is not last. With ``required``, no rule at all is a problem.
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
        if isinstance(rule, Redirect):
            if fallbacks:
                reader.error(line, f"stands after the fallback of line {fallbacks[-1].line}", "put fallbacks last")
            redirects.append(rule)
        elif rule is not None:
            twin = next((other for other in fallbacks if other.family == rule.family), None)
            if twin is not None:
                reader.error(line, f"is a second {rule.family} fallback, line {twin.line} is one", "one per family")
            fallbacks.append(rule)
    if not seen:
        problems.error(source.variable, None, "", "has no rule", EXPECTED_LINE)
    _report_overlaps(redirects, source, problems)
    return Ruleset(tuple(redirects), tuple(fallbacks))


class _Reader:
    """Reads single lines; keeps what all of them need."""

    def __init__(self, source: SourceText, sources: dict[Family, Interface], problems: Problems) -> None:
        self._source = source
        self._sources = sources
        self._problems = problems
        self._addresses: dict[str, Address | Wrong] = {}

    def error(self, line: Line, message: str, expected: str) -> None:
        """Note a problem of ``line``."""
        self._problems.error(self._source.variable, line.number, line.text, message, expected)

    def rule(self, line: Line) -> Redirect | Fallback | None:
        """Return what the line says; None when it says nothing usable."""
        words = line.words
        if len(words) == 1:
            destination = self._destination(line, words[0])
            return None if destination is None else Fallback(line.number, destination)
        if len(words) not in (3, 4):
            self.error(line, f"has {len(words)} words", EXPECTED_LINE)
            return None
        ports = fields.port_range(words[0])
        if isinstance(ports, Wrong):
            self.error(line, ports, f"{fields.EXPECTED_PORT}, or two of them as FIRST-LAST")
        protocol = PROTOCOLS.get(words[1].lower())
        if protocol is None:
            self.error(line, f'"{words[1]}" is not a protocol', f"one of {', '.join(PROTOCOLS)}")
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
        value = self._addresses.get(text)
        if value is None:
            value = fields.address(text)
            if not isinstance(value, Wrong):
                value = self._unusable(value) or value
            self._addresses[text] = value
        if isinstance(value, Wrong):
            self.error(line, value, EXPECTED_ADDRESS)
            return None
        return value

    def _unusable(self, value: Address) -> Wrong | None:
        kind = fields.not_a_host(value)
        if kind:
            return Wrong(f"{value} cannot be a destination: it is {kind}")
        if value.version == 6 and value.is_link_local:
            return Wrong(f"{value} cannot be a destination: it is link-local")
        if any(value == source.ip for source in self._sources.values()):
            return Wrong(f"{value} is EGRESS_SOURCE itself")
        if self._sources and family_of(value) not in self._sources:
            return Wrong(f"{value} is {family_of(value)}, but EGRESS_SOURCE has no {family_of(value)} address")
        return None


def _report_overlaps(redirects: list[Redirect], source: SourceText, problems: Problems) -> None:
    """Note every redirect that claims a port which an earlier line claims. A sweep: n log n."""
    claims: dict[tuple[Family, Protocol], list[tuple[int, int, Redirect]]] = {}
    for rule in redirects:
        claims.setdefault((rule.family, rule.protocol), []).append((rule.ports.first, rule.line, rule))
    for same in claims.values():
        same.sort(key=itemgetter(0, 1))
        widest: Redirect | None = None
        for _, _, rule in same:
            if widest is not None and rule.ports.first <= widest.ports.last:
                first, second = sorted((widest, rule), key=lambda item: item.line)
                shared = max(widest.ports.first, rule.ports.first)
                message = f"claims {rule.protocol} port {shared}, which line {first.line} claims"
                problems.error(source.variable, second.line, str(second), message, "one line per protocol and port")
            if widest is None or rule.ports.last > widest.ports.last:
                widest = rule
