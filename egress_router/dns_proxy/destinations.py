"""EGRESS_DNS_PROXY_DESTINATION and the other variables of the DNS proxy router, as values.

A line of the list is ``PORT ADDRESS|NAME [PORT] [check]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from egress_router.config import fields
from egress_router.config.fields import Invalid, host_name
from egress_router.config.inputs import Inputs, Line, Problems, SourceText
from egress_router.config.run_dir import DEFAULT_RUN_DIR, parse_run_dir
from egress_router.config.settings import (
    on_off,
    parse_health_port,
    parse_page,
    parse_page_hosts,
    seconds,
    shutdown_delay,
    source_addresses,
    unclaimed_port,
)
from egress_router.config.values import Address, Family, HostName, NameServer, family_of
from egress_router.dns_proxy.by_name.config import VARIABLE as BY_NAME
from egress_router.dns_proxy.by_name.config import ByName, parse_by_name
from egress_router.errors import quoted


@dataclass(frozen=True, slots=True)
class Destination:
    """One line: TCP connections to ``port`` of the pod go to ``to_port`` of ``host``.

    ``check``: the addresses are probed by connecting, every two seconds. ``line`` is where it stands.
    """

    line: int
    port: int
    host: HostName | Address
    to_port: int
    check: bool = False

    @property
    def name(self) -> HostName | None:
        """The name to look up; None for an address."""
        return self.host if isinstance(self.host, HostName) else None

    @property
    def way(self) -> str:
        """Where from and where to, as in the list; the label of its figures."""
        return f"{self.port} {self.host} {self.to_port}"

    def __str__(self) -> str:
        return f"{self.way}{' check' * self.check}"


@dataclass(frozen=True, slots=True)
class DnsProxyConfig:
    """The DNS proxy router. ``idle_timeout``, ``grace`` and ``delay`` are seconds.

    ``sources`` has the addresses of EGRESS_SOURCE, and is empty where the variable is not set (upstream's manifests
    set it for the init container alone). ``nameservers`` is empty where resolv.conf decides.
    ``health_port`` is None for none; ``page``: whether people get one at `/` there, ``page_hosts``:
    further names that it is served by.
    """

    destinations: tuple[Destination, ...]
    sources: Mapping[Family, Address] = field(default_factory=dict)
    nameservers: tuple[NameServer, ...] = ()
    idle_timeout: int = 3600
    grace: int = 30
    access_log: bool = True
    health_port: int | None = None
    run_dir: Path = DEFAULT_RUN_DIR
    delay: int = 0
    by_name: ByName | None = None
    page: bool = True
    page_hosts: tuple[str, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports that are listened on."""
        return (*(item.port for item in self.destinations), *(self.by_name.ports if self.by_name else ()))

    @property
    def names(self) -> tuple[HostName, ...]:
        """Every name to look up, once, in the order of the lines."""
        return tuple(dict.fromkeys(item.host for item in self.destinations if isinstance(item.host, HostName)))

    def destination_of(self, port: int) -> Destination | None:
        """Return the line that listens on ``port``."""
        return next((item for item in self.destinations if item.port == port), None)

    def reachable(self, address: Address) -> bool:
        """Whether the family of ``address`` has a source (unknown sources forbid nothing)."""
        return not self.sources or family_of(address) in self.sources


VARIABLE = "EGRESS_DNS_PROXY_DESTINATION"
EXPECTED_LINE = 'PORT NAME-OR-ADDRESS [PORT] [check], as in "8080 example.com 80"'
EXPECTED_HOST = "a name such as example.com or an address such as 203.0.113.25"
EXPECTED_NAMESERVERS = "addresses such as 203.0.113.53 or [2001:db8::53]:5353"
EXPECTED_SOURCE = "ADDRESS[/LENGTH], such as 192.0.2.46 or 192.0.2.46/24; one of each family"
#: HAProxy keeps times as milliseconds in 31 bits, 24.8 days.
LONGEST = 24 * 86400
#: The path of a socket has at most 107 bytes (unix(7)), and HAProxy binds PATH.PID.tmp first: behind the directory
#: stands /dns-proxy/haproxy-999999.sock.4194304.tmp.
LONGEST_RUN_DIR = 65
OTHER_VARIABLES = ("EGRESS_DNS_PROXY_NAMESERVERS", "EGRESS_DNS_PROXY_IDLE_TIMEOUT", "EGRESS_DNS_PROXY_ACCESS_LOG")


def parse_dns_proxy(inputs: Inputs, problems: Problems, *, required: bool = False) -> DnsProxyConfig | None:
    """Return the configuration of the DNS proxy router; None when it is not asked for, or when something is wrong.

    Every problem of every line and variable is noted. Without ``required``, a pod that sets none of the variables
    has no DNS proxy and no problem.
    """
    before = len(problems.errors)
    source = inputs.list_text(VARIABLE, problems)
    by_name = parse_by_name(inputs, problems)
    by_name_asked = by_name is not None or len(problems.errors) > before
    asked = required or source is not None or by_name_asked or any(inputs.value(name) for name in OTHER_VARIABLES)
    if not asked:
        return None
    sources = source_addresses(inputs, problems)
    nameservers = _nameservers(inputs, problems)
    idle = seconds(inputs, problems, "EGRESS_DNS_PROXY_IDLE_TIMEOUT", 3600, 1, LONGEST)
    grace = seconds(inputs, problems, "EGRESS_SHUTDOWN_GRACE", 30, 0, LONGEST)
    delay = shutdown_delay(inputs, problems) or 0
    access_log = on_off(inputs, problems, "EGRESS_DNS_PROXY_ACCESS_LOG")
    health = parse_health_port(inputs, problems)
    page, page_hosts = parse_page(inputs, problems), parse_page_hosts(inputs, problems)
    run_dir = parse_run_dir(inputs, problems, LONGEST_RUN_DIR)
    destinations: tuple[Destination, ...] = ()
    if source is not None:
        destinations = _Reader(source, sources, problems).destinations()
    elif len(problems.errors) == before and by_name is None:
        problems.error(VARIABLE, None, "", "is not set", f"{EXPECTED_LINE}; or {BY_NAME} for TLS by name")
    for item in destinations if by_name else ():
        if by_name and item.port in by_name.ports:
            message = f"listens on port {item.port}, which {BY_NAME} does"
            problems.error(source.variable if source else VARIABLE, item.line, str(item), message, "one use per port")
    owner = next((item for item in destinations if item.port == health), None)
    claimed = f"line {owner.line} of {VARIABLE} ({owner})" if owner else ""
    if by_name and health in by_name.ports:
        claimed = BY_NAME
    health = unclaimed_port(inputs, problems, health, claimed)
    if len(problems.errors) > before:
        return None
    return DnsProxyConfig(
        destinations, sources, nameservers, idle, grace, access_log, health, run_dir, delay, by_name, page, page_hosts
    )


class _Reader:
    """Reads the lines of one list; keeps what all of them need."""

    def __init__(self, source: SourceText, sources: dict[Family, Address], problems: Problems) -> None:
        self._source = source
        self._sources = sources
        self._problems = problems

    def destinations(self) -> tuple[Destination, ...]:
        """Return what the lines say, noting every problem."""
        found: list[Destination] = []
        owners: dict[int, int] = {}
        lines = list(self._source.lines())
        if not lines:
            self._problems.error(self._source.variable, None, "", "has no destination", EXPECTED_LINE)
        for line in lines:
            port = self._port(line, line.words[0])
            if port is not None and owners.setdefault(port, line.number) != line.number:
                self._error(line, f"listens on port {port}, which line {owners[port]} does", "one line per port")
            destination = self._destination(line, port)
            if destination is not None:
                found.append(destination)
        return tuple(found)

    def _error(self, line: Line, message: str, expected: str) -> None:
        self._problems.error(self._source.variable, line.number, line.text, message, expected)

    def _port(self, line: Line, text: str) -> int | None:
        value = fields.port(text)
        if isinstance(value, Invalid):
            self._error(line, value, fields.EXPECTED_PORT)
            return None
        return value

    def _destination(self, line: Line, port: int | None) -> Destination | None:
        _, *words = line.words
        if len(words) >= 2 and words[0].lower() in ("tcp", "udp", "sctp"):
            self._error(line, "names a protocol; this proxy is for TCP alone", EXPECTED_LINE)
            return None
        check = len(words) > 1 and words[-1].lower() == "check"
        if check:
            words.pop()
        if len(words) not in (1, 2):
            self._error(line, "has no destination" if not words else f"has {len(line.words)} words", EXPECTED_LINE)
            return None
        host = self._host(line, words[0])
        to_port = self._port(line, words[1]) if len(words) == 2 else port
        if host is None or port is None or to_port is None:
            return None
        return Destination(line.number, port, host, to_port, check)

    def _host(self, line: Line, text: str) -> HostName | Address | None:
        value = read_host(text)
        if not isinstance(value, Invalid | HostName):
            value = self._unusable(value) or value
        if isinstance(value, Invalid):
            self._error(line, value, EXPECTED_HOST)
            return None
        return value

    def _unusable(self, value: Address) -> Invalid | None:
        kind = fields.not_a_host(value)
        if kind is None and value.version == 6 and value.is_link_local:
            kind = "link-local"
        if kind:
            return Invalid(f"{value} cannot be a destination: it is {kind}")
        if value in self._sources.values():
            return Invalid(f"{value} is EGRESS_SOURCE itself")
        if self._sources and family_of(value) not in self._sources:
            return Invalid(f"{value} is {family_of(value)}, but EGRESS_SOURCE has no {family_of(value)} address")
        return None


def read_host(text: str) -> HostName | Address | Invalid:
    """Read a name or an address; an IPv6 address may stand in brackets. What parses as an address is one."""
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or rest or ":" not in inner:
            return Invalid(f"{quoted(text)} is not an IPv6 address in brackets; a port is a word of its own")
        return fields.address(inner)
    if text.count(":") == 1:
        return Invalid(f"{quoted(text)} has a colon; a port is a word of its own")
    value = fields.address(text)
    if ":" in text or not isinstance(value, Invalid):
        return value
    name = host_name(text)
    # "010.0.0.1": the address reader knows best what is wrong with it.
    return value if isinstance(name, Invalid) and set(text) <= set("0123456789.") else name


def _nameservers(inputs: Inputs, problems: Problems) -> tuple[NameServer, ...]:
    variable = "EGRESS_DNS_PROXY_NAMESERVERS"
    text = inputs.value(variable)
    found: list[NameServer] = []
    for word in (text or "").replace(",", " ").split():
        value = _nameserver(word)
        if isinstance(value, Invalid):
            problems.error(variable, None, text or "", value, EXPECTED_NAMESERVERS)
        elif value not in found:
            found.append(value)
    if text and not text.replace(",", " ").split():
        problems.error(variable, None, text, "has no address", EXPECTED_NAMESERVERS)
    return tuple(found)


def _nameserver(word: str) -> NameServer | Invalid:
    host_text, port_text = word, ""
    if word.startswith("["):
        host_text, bracket, port_text = word[1:].partition("]")
        if not bracket or (port_text and not port_text.startswith(":")) or ":" not in host_text:
            return Invalid(f"{quoted(word)} is not an address")
    elif word.count(":") == 1:
        host_text, _, port_text = word.partition(":")
        port_text = ":" + port_text
    host = fields.address(host_text)
    if isinstance(host, Invalid):
        return host
    # Loopback is fine here: a caching name server may run beside the proxy.
    if host.is_multicast or host.is_unspecified:
        return Invalid(f"{host} cannot be a name server: it is {fields.not_a_host(host)}")
    port = fields.port(port_text[1:]) if port_text else 53
    return port if isinstance(port, Invalid) else NameServer(host, port)
