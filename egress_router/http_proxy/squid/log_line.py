"""Squid's raw access log line (the logformat of squid.conf.j2): parsed, what decided, and as JSON text.

Squid writes percent-encoded fields between spaces, so nothing that a client sends can end a field or a line; strings of
JSON are written by the json module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from egress_router.policy.attribution import NameOwners, Owners
from egress_router.policy.codes import numbered_ranges
from egress_router.policy.compiled import CompiledPolicy
from egress_router.policy.evaluate import literal_address
from egress_router.policy.values import Address, Decision, Policy


class RawLine(NamedTuple):
    """The fields of squid.conf.j2's logformat, as text; first the numbers in which lines differ that are alike else."""

    time: str
    size: str
    duration: str
    client_port: str
    client: str
    method: str
    host: str
    port: str
    status: str
    rule: str
    at: str
    server: str
    error: str
    detail: str
    outcome: str
    failed: str


def parse(raw: str) -> RawLine | None:
    """Return the fields of a raw line; None when it is not one of ours."""
    fields = raw.split()
    if len(fields) != len(RawLine._fields):
        return None
    line = RawLine._make(fields)
    second, dot, fraction = line.time.partition(".")
    numbers = (second, fraction, line.status, line.size, line.duration)
    return line if dot and all(number.isdecimal() for number in numbers) else None


def plain(field: str) -> str | None:
    """Return what a field means; None when it is empty."""
    return None if field == "-" else unquote(field)


class Attribution(NamedTuple):
    """What was decided, as the JSON has it, and the members that are the same for all such requests as text: those
    about the target and those about the decision.
    """

    members: Mapping[str, str | int | None]
    target: str
    decision: str


@lru_cache(maxsize=64)
def _second(text: str) -> str:
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=8192)
def _quoted(field: str) -> str:
    return json.dumps(unquote(field))


class Frame(NamedTuple):
    """The JSON text of all lines that differ in their numbers alone: what stands between those."""

    first: str
    last: str

    def text(self, time: str, size: int, duration: int) -> str:
        """Return the JSON text of the line with these numbers."""
        second, _, fraction = time.partition(".")
        return f'{{"time": "{_second(second)}.{fraction}Z", {self.first}{size}, "duration_ms": {duration}, {self.last}'


def frame(raw: RawLine, decided: Attribution, failed: tuple[str, str] | None = None) -> Frame:
    """Return what surrounds the numbers of a raw line. ``failed``: what failed, and a detail."""
    return Frame(
        f'"client": {_quoted(raw.client)}, "method": {_quoted(raw.method)}, {decided.target}, '
        f'"status": {int(raw.status)}, "bytes": ',
        f"{decided.decision}{_failed(*failed) if failed else ''}}}",
    )


def entry(raw: RawLine, decided: Attribution, failed: tuple[str, str] | None = None) -> str:
    """Return the JSON text of a raw line. ``failed``: what failed, and a detail."""
    return frame(raw, decided, failed).text(raw.time, int(raw.size), int(raw.duration))


@lru_cache(maxsize=1024)
def _failed(word: str, detail: str) -> str:
    more = f', "detail": {json.dumps(detail)}' if detail else ""
    return f', "error": "{word}"{more}'


CLOSED = "a closed address"
#: What decided when it was no line: the notes of squid.conf.j2 in words.
REASONS = {
    "manager": "the cache manager is closed",
    "scheme": "neither http nor https",
    "sni": "the name in the TLS ClientHello (SNI) is not the host of the CONNECT",
    "connect_ports": "not one of EGRESS_HTTP_PROXY_CONNECT_PORTS",
    "nowhere": "no destination",
    "closed": CLOSED,
    "default": "no line matches",
    "-": "not a request that could be judged",
    # Before DNS had answered.
    "gone": "the client left before it was judged",
}

#: Which line denies it is told for literal addresses alone.
EMBEDDED = "an IPv6 address that carries a denied or closed IPv4 address"


#: Squid answered itself: it was asked for its cache alone, or to be the last to answer a TRACE.
UNCONNECTED = "answered without a connection"


#: See ``policy.codes``.
UNTOLD = "addresses of the name, in several lines"


class RuleAttributor:
    """Knows what decided about the raw lines of one generation. ``policy`` and ``compiled`` are what its Squid runs;
    with a ``parent``, servers in the log are that proxy.
    """

    def __init__(self, policy: Policy, compiled: CompiledPolicy, *, parent: bool = False) -> None:
        self.parent = parent
        self._rules = compiled.rules
        self._clients = compiled.clients
        self._group = lru_cache(maxsize=8192)(self._group_of)
        self._names = NameOwners(policy, compiled.clients)
        self._lines = {line.number: line for line in policy.lines}
        self._owners = Owners(compiled)
        # Large, and of use for few policies.
        self._asked = cache(lambda: numbered_ranges(compiled))
        self._decide = lru_cache(maxsize=8192)(self._decision)

    def decision(self, raw: RawLine) -> Attribution:
        """Return what was decided."""
        rule = "gone" if raw.rule == "-" and raw.status.strip("0") == "" else raw.rule
        group = self._group(raw.client) if len(self._clients.groups) > 1 else 0
        return self._decide(raw.host, raw.port, rule, raw.at, raw.server, group)

    def _group_of(self, client: str) -> int:
        address = literal_address(plain(client) or "")
        return self._clients.group(address) if address else 0

    def _decision(self, host: str, port: str, rule: str, at: str, server: str, group: int) -> Attribution:
        target = {"host": plain(host), "port": int(port) if port.isdecimal() else None}
        host = (plain(host) or "").rstrip(".").lower()
        number = int(rule) if rule.isdecimal() else 0
        allowed = number > 0 and self._rules[number - 1].decision is Decision.ALLOW
        decided: int | str | None = REASONS.get(rule)
        if (number or rule == "default") and port.isdecimal():
            address = literal_address(host) or (None if self.parent else _address(allowed, server))
            decided = self._decided(host, int(port), number, at, address, group)
            if not allowed and self._allows(decided):
                decided = None
            elif allowed and address is not None:
                # DNS may have changed its mind: what this address is not allowed, the second look denied.
                allowed = self._allows(decided)
        decision: dict[str, str | int | None] = {"decision": "allow" if allowed else "deny", "line": None}
        if isinstance(decided, int) and decided:
            decision |= {"line": decided, "rule": self._lines[decided].text}
        else:
            decision["reason"] = CLOSED if decided == 0 else decided or REASONS["default"]
        if allowed and server != "-":
            decision["parent" if self.parent else "server"] = server
        return Attribution(decision, json.dumps(target)[1:-1], json.dumps(decision)[1:-1])

    def _decided(
        self, host: str, port: int, rule: int, at: str, address: Address | None, group: int
    ) -> int | str | None:
        """Return the number of the first line about a host: about the ``address`` that is known, or what ``at`` tells.

        0 stands for closed addresses, None for no line, a text for what else is to be said.
        """
        by_name = self._names.line(host if literal_address(host) is None else "", port, group)
        if address is not None:
            by_address = self._owners.line(address, port, group)
        elif not rule or not (lines := self._rules[rule - 1].addresses):
            return by_name
        elif len(lines) == 1:
            by_address = lines[0].number
        elif self._rules[rule - 1].embedded:
            return EMBEDDED
        elif rule not in self._asked():
            return UNCONNECTED
        else:
            by_address = self._asked()[rule].line_in(unquote(at).split(","))
            if by_address is None:
                return UNTOLD
        return min((one for one in (by_name, by_address) if one is not None), default=None)

    def _allows(self, decided: int | str | None) -> bool:
        line = self._lines.get(decided) if isinstance(decided, int) else None
        return line is not None and line.decision is Decision.ALLOW


def _address(allowed: bool, server: str) -> Address | None:
    return literal_address(server) if allowed and server != "-" else None
