"""Squid's raw access log → one JSON object a line, with the policy line that decided.

Squid writes percent-encoded fields between spaces (the template), so nothing that a client sends can end a field
or a line; JSON is written by the json module. A thread for each Squid reads its pipe until that Squid is gone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from egress_router.model.http_numbered import numbered_ranges
from egress_router.model.http_policy import Address, Block, Decision, HttpPolicy
from egress_router.model.http_rules import CompiledPolicy
from egress_router.plan.http_evaluate import literal_address
from egress_router.plan.http_lines import Owners
from egress_router.plan.http_names import NameLines
from egress_router.proxy.http_tally import HttpCounts, HttpTally, error_word
from egress_router.proxy.line_pipe import LinePipe
from egress_router.proxy.log_output import LogOutput

log = logging.getLogger(__name__)

#: What decided when it was no line: the notes of squid.conf.j2 in words.
REASONS = {
    "manager": "the cache manager is closed",
    "scheme": "neither http nor https",
    "connect_ports": "not one of EGRESS_HTTP_PROXY_CONNECT_PORTS",
    "nowhere": "no destination",
    "default": "no line matches",
    "-": "not a request that could be judged",
    # Before DNS had answered.
    "gone": "the client left before it was judged",
}
CLOSED = "a closed address"
#: Squid answered itself: it was asked for its cache alone, or to be the last to answer a TRACE.
UNCONNECTED = "answered without a connection"
#: See ``model.http_codes``.
UNTOLD = "addresses of the name, in several lines"


class RawLine(NamedTuple):
    """The fields of squid.conf.j2's logformat, as text."""

    time: str
    client: str
    method: str
    host: str
    port: str
    status: str
    size: str
    duration: str
    rule: str
    at: str
    server: str
    error: str


def parse(raw: str) -> RawLine | None:
    """Return the fields of a raw line; None when it is not one of ours."""
    fields = raw.split()
    return RawLine._make(fields) if len(fields) == len(RawLine._fields) and fields[6].isdecimal() else None


class Translator:
    """Knows what decided about the raw lines of one generation. ``policy`` and ``compiled`` are what its Squid runs."""

    def __init__(self, policy: HttpPolicy, compiled: CompiledPolicy) -> None:
        self._rules = compiled.rules
        self._names = NameLines()
        for line in policy.lines:
            if not isinstance(line.target, Block):
                self._names.add(line)
        self._lines = {line.number: line for line in policy.lines}
        self._owners = Owners(compiled)
        # Large, and of use for few policies.
        self._asked = cache(lambda: numbered_ranges(compiled))
        self._decide = lru_cache(maxsize=8192)(self._decision)

    def decision(self, raw: RawLine) -> Mapping[str, str | int | None]:
        """Return what was decided, as the JSON has it."""
        rule = "gone" if raw.rule == "-" and raw.status.strip("0") == "" else raw.rule
        return self._decide(_text(raw.host) or "", raw.port, rule, raw.at, raw.server)

    def json(self, raw: RawLine, decision: Mapping[str, str | int | None]) -> str | None:
        """Return the JSON text of a raw line and what was decided; None when it is not one of ours."""
        try:
            stamp = datetime.fromtimestamp(float(raw.time), UTC).isoformat(timespec="milliseconds")
            head = {
                "time": stamp.replace("+00:00", "Z"),
                "client": raw.client,
                "method": unquote(raw.method),
                "host": _text(raw.host),
                "port": int(raw.port) if raw.port.isdecimal() else None,
                "status": int(raw.status),
                "bytes": int(raw.size),
                "duration_ms": int(raw.duration),
            }
        except ValueError:
            return None
        return json.dumps({**head, **decision}, ensure_ascii=True)

    def _decision(self, host: str, port: str, rule: str, at: str, server: str) -> dict[str, str | int | None]:
        host = host.removesuffix(".").lower()
        number = int(rule) if rule.isdecimal() else 0
        allowed = number > 0 and self._rules[number - 1].decision is Decision.ALLOW
        decided: int | str | None = REASONS.get(rule)
        if (number or rule == "default") and port.isdecimal():
            address = literal_address(host) or _address(allowed, server)
            decided = self._decided(host, int(port), number, at, address)
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
            decision["server"] = server
        return decision

    def _decided(self, host: str, port: int, rule: int, at: str, address: Address | None) -> int | str | None:
        """Return the number of the first line about a host: about the ``address`` that is known, or what ``at`` tells.

        0 stands for closed addresses, None for no line, a text for what else is to be said.
        """
        found = self._names.first(host if literal_address(host) is None else "", port)
        by_name = found.number if found else None
        if address is not None:
            by_address = self._owners.line(address, port)
        elif not rule or not (lines := self._rules[rule - 1].addresses):
            return by_name
        elif len(lines) == 1:
            by_address = lines[0].number
        elif rule not in self._asked():
            return UNCONNECTED
        else:
            by_address = self._asked()[rule].told(unquote(at).split(","))
            if by_address is None:
                return UNTOLD
        return min((one for one in (by_name, by_address) if one is not None), default=None)

    def _allows(self, decided: int | str | None) -> bool:
        line = self._lines.get(decided) if isinstance(decided, int) else None
        return line is not None and line.decision is Decision.ALLOW


def _address(allowed: bool, server: str) -> Address | None:
    return literal_address(server) if allowed and server != "-" else None


def _text(field: str) -> str | None:
    return None if field == "-" else unquote(field)


class AccessLog(LinePipe):
    """The log of one Squid: counted in ``tally`` and written to ``output`` (None: to nobody). ``write_end`` becomes
    that Squid's standard output.
    """

    def __init__(self, translator: Translator, tally: HttpTally, output: LogOutput | None) -> None:
        self._translator = translator
        self._tally = tally
        self._output = output
        super().__init__(self._copy_lines)

    def _copy_lines(self, lines: list[bytes]) -> None:
        counts = HttpCounts()
        written = []
        for text in (line.decode("utf-8", "replace") for line in lines):
            raw = parse(text)
            decision = self._translator.decision(raw) if raw else {}
            entry = self._translator.json(raw, decision) if raw and self._output else ""
            if raw is None or entry is None:
                log.warning("access log: a line that is not ours was dropped (%d characters)", len(text))
                continue
            written.append(entry.encode())
            _count(raw, decision, counts)
        self._tally.add(counts)
        if self._output:
            self._output.put(written)


def _count(raw: RawLine, decision: Mapping[str, str | int | None], counts: HttpCounts) -> None:
    counts.decisions["invalid" if raw.rule == "-" else str(decision["decision"])] += 1
    counts.sent += int(raw.size)
    if "rule" in decision:
        counts.destinations[str(decision["rule"])] += 1
    if raw.error != "-" and decision["decision"] == "allow" and (error := error_word(raw.error, raw.server)):
        counts.errors[error] += 1
