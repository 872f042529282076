"""CompiledPolicy and HttpSettings → squid.conf and the files of its sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.acls import SquidSets, define_which
from egress_router.policy.codes import NumberedRanges, numbered_ranges
from egress_router.policy.compiled import CompiledPolicy, Rule
from egress_router.policy.ranges import Claims, Span, complement, normal, spans
from egress_router.policy.values import ANY_PORT, NOWHERE, Decision, Network, Ports, to_block

#: Squid writes one descriptor for the client, up to two for the server (happy eyeballs), and has some of its own.
DESCRIPTORS_PER_CLIENT = 3
OWN_DESCRIPTORS = 128
#: Nothing can be sent from these (RFC 1122 3.2.1.3 (b) and RFC 6666), so a connection bound to one never starts.
UNUSABLE = {4: "0.0.0.1", 6: "100::1"}
#: Whatever the routes say.
ANY_SOURCE = {4: "0.0.0.0", 6: "::"}  # noqa: S104
#: Both interface identifiers of ISATAP, 0:5efe and 200:5efe, behind any prefix and before any IPv4 address. A mask with
#: holes is right in a set of its own: Squid then compares with nothing else. It reads a mask in colons only behind an
#: address with dots, and takes its beginning for a length otherwise (acl_ip_data::FactoryParse).
ISATAP = "::5efe:0.0.0.0/::fdff:ffff:0.0.0.0"


@dataclass(frozen=True, slots=True)
class SquidPlace:
    """What squid.conf says about the machine: ``directory`` for its files, ``listen`` the address part of
    http_port, ``log`` and ``error_log`` where Squid writes. Set by whoever starts it; the defaults suit a dry run.

    ``secret``: what the supervisor's own questions carry; without one there is no supervisor. ``ipv6``: where the pod
    has none, Squid refuses every IPv6 address in its configuration, and asks for none. ``families``: those that lead
    outside, where EGRESS_SOURCE does not say so.
    ``cluster``: what the routes send into the cluster. ``sni_helper``: the command of sni_helper.py.
    ``descriptors``: the most that the process may have (None: as many as it wants).
    ``name_server``: who is asked for addresses instead of those of resolv.conf.
    ``error_directory`` holds the pages of ``squid_errors``, which Squid wants to exist (None: Squid's own pages).
    """

    directory: str = "/run/egress-router/squid"
    listen: str = "[::]"
    log: str = "/proc/self/fd/1"
    error_log: str = "/proc/self/fd/2"
    secret: str = ""
    ipv6: bool = True
    families: tuple[int, ...] = (4, 6)
    descriptors: int | None = None
    cluster: tuple[Network, ...] = ()
    sni_helper: str = "sni_helper.py"
    error_directory: str | None = None
    name_server: str | None = None


#: A certificate that no client trusts, beside squid.conf; whoever starts Squid puts ``files.unused_certificate`` there.
UNUSED = "unused.pem"


#: Where a configuration is shown and not run.
SHOWN = SquidPlace(secret="SECRET")  # noqa: S106  # stands for one


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("egress_router.http_proxy.squid", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # this is no HTML; every value is a number or from a parsed model
    )
    return environment.get_template("squid.conf.j2")


def wanted_descriptors(settings: HttpSettings) -> int:
    """Return how many file descriptors Squid needs for so many clients."""
    return settings.max_clients * DESCRIPTORS_PER_CLIENT + OWN_DESCRIPTORS


def clients_with(descriptors: int) -> int:
    """Return how many clients so many file descriptors are enough for."""
    return max(0, descriptors - OWN_DESCRIPTORS) // DESCRIPTORS_PER_CLIENT


def render_squid(compiled: CompiledPolicy, settings: HttpSettings, place: SquidPlace | None = None) -> dict[str, str]:
    """Return the files, by name relative to ``place.directory``; ``squid.conf`` is the one that includes the rest."""
    place = place or SquidPlace()
    writer = _Writer(place, settings)
    writer.policy(compiled, settings)
    conf = _template().render(
        place=place,
        settings=settings,
        credentials=_credentials(settings, place),
        any_connect_port=settings.connect_ports == ANY_PORT,
        connect_ports=str(settings.connect_ports).replace(",", " "),
        descriptors=min(wanted_descriptors(settings), place.descriptors or wanted_descriptors(settings)),
        sets=writer.sets,
        access=writer.access,
        unused=UNUSED,
        outgoing=writer.outgoing,
    )
    return {"squid.conf": conf, **writer.files}


def _credentials(settings: HttpSettings, place: SquidPlace) -> str:
    """Return the parent's user and password; words for them where the configuration is shown."""
    credentials = settings.parent.credentials if settings.parent else ""
    return "USER:PASSWORD" if credentials and place == SHOWN else credentials


class _Writer:
    """Collects ACL definitions, access rules and the same rules for outgoing addresses."""

    def __init__(self, place: SquidPlace, settings: HttpSettings) -> None:
        self._families = (4, 6) if place.ipv6 else (4,)
        # Addresses of a family that cannot leave do not count, whatever else a name resolves to.
        sources = {source.version for source in settings.sources} or place.families
        self._counting = [family for family in self._families if family in sources] or self._families
        self._parent = settings.parent is not None
        self._cluster = [span for network in place.cluster for span in spans(to_block(network))]
        self._to_cluster = ""
        directory = PurePosixPath(place.directory)
        self._sets = SquidSets(directory, self._counting, look_up=not self._parent, clients=self._families)
        self.access: list[str] = []
        self.outgoing: list[str] = []

    @property
    def sets(self) -> list[str]:
        """The definitions of ACLs."""
        return self._sets.lines

    @property
    def files(self) -> dict[str, str]:
        """The long ones' files."""
        return self._sets.files

    def policy(self, compiled: CompiledPolicy, settings: HttpSettings) -> None:
        sources = _sources(settings)
        if self._parent:
            # Whatever is asked for, the connection is one to the parent.
            for family in self._families:
                self.outgoing.append(f"tcp_outgoing_address {sources[family]}")
        self._resolved = self._sets.define("resolved", "dst", self._sets.ranges(complement([])))
        # The second look: without addresses in Squid's cache there is nothing to judge, so nothing to connect to.
        self._leave(UNUSABLE, f"!{self._resolved}")
        for alone in compiled.names_alone:
            # Nobody may use our DNS to talk to the world through names that are denied anyway.
            others = ["!" + self._sets.define("names_allowed", "dstdomain -n", names) for names in alone.names]
            if (clients := self._clients(alone.clients)) is not None:
                self._mark("http_access deny", " ".join([*clients, *others] or ["all"]), "default")
        self._to_cluster = self._opened_cluster(compiled)
        asked = numbered_ranges(compiled)
        nowhere_said = False
        for number, rule in enumerate(compiled.rules, start=1):
            if not nowhere_said and (rule.addresses or rule.decision is Decision.ALLOW):
                # Not earlier: a name that is denied as such need not be looked up.
                self._nowhere(compiled)
                nowhere_said = True
            self._rule(number, rule, asked.get(number), sources)
        self._mark("http_access deny", "all", "default")
        self._leave(UNUSABLE, "")

    def _nowhere(self, compiled: CompiledPolicy) -> None:
        spans = [(number, number) for number in sorted(NOWHERE)]
        nowhere = self._sets.define("nowhere", "dst", self._sets.written(spans))
        self._mark("http_access deny", nowhere, "nowhere")
        self._leave(UNUSABLE, nowhere)
        if 6 in self._counting:
            isatap = self._sets.define("isatap", "dst", [ISATAP])
            opened = self._sets.ranges(normal(compiled.isatap))
            excepted = f" !{self._sets.define('isatap_opened', 'dst', opened)}" if opened else ""
            self._mark("http_access deny", isatap + excepted, "closed")
            self._leave(UNUSABLE, isatap + excepted)

    def _rule(self, number: int, rule: Rule, asked: NumberedRanges | None, sources: Mapping[int, str]) -> None:
        conditions = self._clients(rule.clients)
        if conditions is None:
            return
        if rule.ports != ANY_PORT:
            conditions.append(self._ports(rule.ports))
        if rule.names:
            conditions.append(self._sets.define(f"names_{number}", "dstdomain -n", rule.names))
        if rule.addresses:
            mine = self._sets.ranges(sorted(span for line in rule.addresses for span in line.ranges))
            if not mine:
                return
            conditions.append(self._sets.define(f"addresses_{number}", "dst", mine))
            if outside := self._sets.ranges(rule.outside):
                conditions.append("!" + self._sets.define(f"outside_{number}", "dst", outside))
        if rule.everything:
            conditions.append("all")
        condition = " ".join(conditions)
        if rule.decision is Decision.ALLOW and not rule.addresses and not self._parent:
            failed = self._sets.note("failed_dns", "failed=dns")
            self._mark("http_access deny", f"{condition} !{self._resolved}", str(number), failed)
        which = f" {define_which(self._sets, number, asked)}" if asked else ""
        self._mark(f"http_access {rule.decision.value}", condition + which, str(number))
        if rule.decision is Decision.DENY:
            self._leave(UNUSABLE, condition)
            return
        if self._to_cluster:
            # EGRESS_SOURCE is not for what leaves by the cluster's interface.
            self._leave(ANY_SOURCE, f"{condition} {self._to_cluster}")
        self._leave(sources, condition)

    def _opened_cluster(self, compiled: CompiledPolicy) -> str:
        """Define the networks of the cluster where lines open addresses in them; return "" where none does."""
        allowed = Claims()
        allowed.claim(
            span
            for rule in compiled.rules
            if rule.decision is Decision.ALLOW
            for line in rule.addresses
            for span in line.ranges
        )
        inside = normal(self._cluster)
        if sum(last - first for first, last in allowed.claim(inside)) == sum(last - first for first, last in inside):
            return ""
        entries = self._sets.ranges(inside)
        return self._sets.define("to_cluster", "dst", entries) if entries else ""

    def _mark(self, directive: str, condition: str, mark: str, *further: str) -> None:
        note = self._sets.note(f"rule_{mark}", f"rule={mark}")
        self.access.append(" ".join((directive, condition, note, *further)))

    def _leave(self, sources: Mapping[int, str], condition: str) -> None:
        if self._parent:
            return
        for family in self._families:
            self.outgoing.append(f"tcp_outgoing_address {sources[family]} {condition}".rstrip())

    def _clients(self, clients: Sequence[Span] | None) -> list[str] | None:
        """Return the condition that a request comes from some clients; None when there can be no such client."""
        if clients is None:
            return []
        entries = self._sets.clients(clients)
        return [self._sets.define("clients", "src", entries)] if entries else None

    def _ports(self, ports: Ports) -> str:
        return self._sets.define("ports_" + str(ports).replace(",", "_"), "port", str(ports).split(","))


def _sources(settings: HttpSettings) -> dict[int, str]:
    """Return what a connection is bound to, by family: with EGRESS_SOURCE, a family it lacks cannot leave."""
    if not settings.sources:
        return ANY_SOURCE
    return UNUSABLE | {source.version: str(source) for source in settings.sources}


_PAGE = "<!DOCTYPE html>\n<title>egress-router</title>\n<p>{}\n"
_SPECIAL = {
    "ERR_ACCESS_DENIED": "The policy of this proxy does not allow this request.",
    "ERR_DNS_FAIL": "The name of the server cannot be resolved.",
    # Squid's word for a name without an address, too, when the policy had it looked up before.
    "ERR_READ_ERROR": "No answer came: the name of the server does not resolve, or it cut the connection. %E",
}
_OTHERS = "The request failed: %c %E"
#: Squid 5.7 complains at its start about each of these that it does not find, and takes its own instead.
_NAMES = """
ERR_CACHE_ACCESS_DENIED ERR_CACHE_MGR_ACCESS_DENIED ERR_CANNOT_FORWARD ERR_CONFLICT_HOST ERR_CONNECT_FAIL
ERR_DIR_LISTING ERR_DNS_FAIL ERR_ESI ERR_FORWARDING_DENIED ERR_FTP_DISABLED ERR_FTP_FAILURE ERR_FTP_FORBIDDEN
ERR_FTP_NOT_FOUND ERR_FTP_PUT_CREATED ERR_FTP_PUT_ERROR ERR_FTP_PUT_MODIFIED ERR_FTP_UNAVAILABLE
ERR_GATEWAY_FAILURE ERR_ICAP_FAILURE ERR_INVALID_REQ ERR_INVALID_RESP ERR_INVALID_URL ERR_LIFETIME_EXP
ERR_NO_RELAY ERR_ONLY_IF_CACHED_MISS ERR_PRECONDITION_FAILED ERR_PROTOCOL_UNKNOWN ERR_READ_ERROR
ERR_READ_TIMEOUT ERR_SECURE_CONNECT_FAIL ERR_SHUTTING_DOWN ERR_SOCKET_FAILURE ERR_TOO_BIG
ERR_UNSUP_HTTPVERSION ERR_UNSUP_REQ ERR_URN_RESOLVE ERR_WRITE_ERROR ERR_ZERO_SIZE_OBJECT
"""


def error_pages(directory: str) -> dict[str, str]:
    """Return the pages that clients get instead of an answer, by name, in a directory for ``error_directory``.

    Squid's own are three kilobytes, name the administrator, and are looked for on disk for every refused request that
    has an Accept-Language header, as those of browsers have. These are read once, at the start. ``%c`` is the name of
    the error and ``%E`` the system's error, escaped.
    """
    return {f"{directory}/{name}": _PAGE.format(_SPECIAL.get(name, _OTHERS)) for name in (*_SPECIAL, *_NAMES.split())}
