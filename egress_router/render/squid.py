"""CompiledPolicy and HttpSettings → squid.conf and the files of its sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from egress_router.model.http_policy import ANY_PORT, NOWHERE, Decision, HttpSettings, Ports, from_number
from egress_router.model.http_regions import Span, complement
from egress_router.model.http_rules import CompiledPolicy, Rule

#: Squid writes one descriptor for the client, up to two for the server (happy eyeballs), and has some of its own.
DESCRIPTORS_PER_CLIENT = 3
OWN_DESCRIPTORS = 128
#: Up to this many address lines in one rule, the access log names the one that decided about a resolved name.
MAX_NAMED_ADDRESS_LINES = 512
#: Nothing can be sent from these (RFC 1122 3.2.1.3 (b) and RFC 6666), so a connection bound to one never starts.
UNUSABLE = {4: "0.0.0.1", 6: "100::1"}


@dataclass(frozen=True, slots=True)
class SquidPlace:
    """What squid.conf says about the machine: ``directory`` for its files, ``listen`` the address part of
    http_port, ``log`` and ``error_log`` where Squid writes. Set by whoever starts it; the defaults suit a dry run.

    ``secret``: what the supervisor's own questions carry; without one there is no supervisor. ``ipv6``: where the pod
    has none, Squid refuses every IPv6 address in its configuration, and asks for none.
    """

    directory: str = "/run/egress-router/squid"
    listen: str = "[::]"
    log: str = "/proc/self/fd/1"
    error_log: str = "/proc/self/fd/2"
    secret: str = ""
    ipv6: bool = True


#: Where a configuration is shown and not run.
SHOWN = SquidPlace(secret="SECRET")  # noqa: S106  # stands for one


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("egress_router.render"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # this is no HTML; every value is a number or from a parsed model
    )
    return environment.get_template("squid.conf.j2")


def render_squid(compiled: CompiledPolicy, settings: HttpSettings, place: SquidPlace | None = None) -> dict[str, str]:
    """Return the files, by name relative to ``place.directory``; ``squid.conf`` is the one that includes the rest."""
    place = place or SquidPlace()
    writer = _Writer(PurePosixPath(place.directory), place.ipv6)
    writer.policy(compiled, settings)
    conf = _template().render(
        place=place,
        settings=settings,
        any_connect_port=settings.connect_ports == ANY_PORT,
        connect_ports=str(settings.connect_ports).replace(",", " "),
        descriptors=settings.max_clients * DESCRIPTORS_PER_CLIENT + OWN_DESCRIPTORS,
        sets=writer.sets,
        access=writer.access,
        outgoing=writer.outgoing,
    )
    return {"squid.conf": conf, **writer.files}


class _Writer:
    """Collects ACL definitions, access rules and the same rules for outgoing addresses."""

    def __init__(self, directory: PurePosixPath, ipv6: bool) -> None:
        self._directory = directory
        self._families = (4, 6) if ipv6 else (4,)
        self._known: dict[tuple[str, str], str] = {}
        self._marks: set[str] = set()
        self.files: dict[str, str] = {}
        self.sets: list[str] = []
        self.access: list[str] = []
        self.outgoing: list[str] = []

    def policy(self, compiled: CompiledPolicy, settings: HttpSettings) -> None:
        sources = _sources(settings)
        resolved = self._set("resolved", "dst", self._ranges(complement([])))
        # The second look: without addresses in Squid's cache there is nothing to judge, so nothing to connect to.
        self._leave(UNUSABLE, f"!{resolved}")
        if compiled.allowed_names is not None:
            # Nobody may use our DNS to talk to the world through names that are denied anyway.
            names = compiled.allowed_names
            others = "!" + self._set("names_allowed", "dstdomain -n", names) if names else "all"
            self._mark("http_access deny", others, "default")
        nowhere_said = False
        for number, rule in enumerate(compiled.rules, start=1):
            if not nowhere_said and (rule.addresses or rule.decision is Decision.ALLOW):
                # Not earlier: a name that is denied as such need not be looked up.
                self._nowhere()
                nowhere_said = True
            self._rule(number, rule, sources)
        self._mark("http_access deny", "all", "default")
        self._leave(UNUSABLE, "")

    def _nowhere(self) -> None:
        nowhere = self._set("nowhere", "dst", self._written((number, number) for number in sorted(NOWHERE)))
        self._mark("http_access deny", nowhere, "nowhere")
        self._leave(UNUSABLE, nowhere)

    def _rule(self, number: int, rule: Rule, sources: Mapping[int, str]) -> None:
        conditions = [] if rule.ports == ANY_PORT else [self._ports(rule.ports)]
        if rule.names:
            conditions.append(self._set(f"names_{number}", "dstdomain -n", rule.names))
        if rule.addresses:
            mine = self._ranges(sorted(span for line in rule.addresses for span in line.ranges))
            if not mine:
                return
            conditions.append(self._set(f"addresses_{number}", "dst", mine))
            if outside := self._ranges(rule.outside):
                conditions.append("!" + self._set(f"outside_{number}", "dst", outside))
        if rule.everything:
            conditions.append("all")
        condition = " ".join(conditions)
        allow = rule.decision is Decision.ALLOW
        if len(rule.addresses) == 1:
            self._mark(
                f"http_access {rule.decision.value}", condition, str(number), f" line={rule.addresses[0].number}"
            )
        else:
            which = self._which(number, rule)
            self._mark(f"http_access {rule.decision.value}", f"{condition} {which}".rstrip(), str(number))
        self._leave(sources if allow else UNUSABLE, condition)

    def _which(self, number: int, rule: Rule) -> str:
        """Return an ACL that always matches where the rule's addresses do and notes the line; "" when too many."""
        if not rule.addresses or len(rule.addresses) > MAX_NAMED_ADDRESS_LINES:
            return ""
        choices = []
        for line in rule.addresses:
            if not (ranges := self._ranges(line.ranges)):
                continue
            where = self._set(f"line_{number}_{line.number}", "dst", ranges)
            self.sets.append(f"acl note_{number}_{line.number} annotate_transaction line={line.number}")
            self.sets.append(f"acl which_{number}_{line.number} all-of {where} note_{number}_{line.number}")
            choices.append(f"which_{number}_{line.number}")
        self.sets += [f"acl which_{number} any-of {choice}" for choice in choices]
        return f"which_{number}"

    def _mark(self, directive: str, condition: str, mark: str, line: str = "") -> None:
        name = f"rule_{mark}"
        if name not in self._marks:
            self._marks.add(name)
            self.sets.append(f"acl {name} annotate_transaction rule={mark}{line}")
        self.access.append(" ".join(filter(None, (directive, condition, name))))

    def _leave(self, sources: Mapping[int, str], condition: str) -> None:
        for family in self._families:
            self.outgoing.append(f"tcp_outgoing_address {sources[family]} {condition}".rstrip())

    def _ports(self, ports: Ports) -> str:
        return self._set("ports_" + str(ports).replace(",", "_"), "port", str(ports).split(","))

    def _ranges(self, ranges: Iterable[Span]) -> list[str]:
        """Return Squid's notation of ranges that hold one family each, without the addresses that lead nowhere."""
        return self._written(_without(ranges, sorted(NOWHERE)))

    def _written(self, ranges: Iterable[Span]) -> list[str]:
        return [
            str(from_number(first)) if first == last else f"{from_number(first)}-{from_number(last)}"
            for first, last in ranges
            if from_number(first).version in self._families
        ]

    def _set(self, name: str, kind: str, entries: Sequence[str]) -> str:
        """Define a set once, in a file when it is long, and return the name it goes by."""
        body = "\n".join(entries) + "\n"
        if (kind, body) in self._known:
            return self._known[kind, body]
        if len(name) > 50:
            name = f"set_{len(self._known)}"
        self._known[kind, body] = name
        if len(body) < 200:
            self.sets.append(f"acl {name} {kind} {' '.join(entries)}")
        else:
            self.files[name] = body
            self.sets.append(f'acl {name} {kind} "{self._directory / name}"')
        return name


def _sources(settings: HttpSettings) -> dict[int, str]:
    """Return what a connection is bound to, by family: with EGRESS_SOURCE, a family it lacks cannot leave."""
    if not settings.sources:
        return {4: "0.0.0.0", 6: "::"}  # noqa: S104  # whatever the routes say
    return UNUSABLE | {source.version: str(source) for source in settings.sources}


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
