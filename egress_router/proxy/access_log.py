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

from egress_router.model.http_policy import Block, HttpPolicy
from egress_router.model.http_rules import CompiledPolicy
from egress_router.plan.http_evaluate import literal_address
from egress_router.plan.http_lines import AddressLines
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
}


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
    line: str
    bits: str
    server: str
    error: str


def parse(raw: str) -> RawLine | None:
    """Return the fields of a raw line; None when it is not one of ours."""
    fields = raw.split()
    return RawLine._make(fields) if len(fields) == len(RawLine._fields) and fields[6].isdecimal() else None


class Translator:
    """Knows what decided about the raw lines of one generation. ``policy`` and ``compiled`` are what its Squid runs."""

    def __init__(self, policy: HttpPolicy, compiled: CompiledPolicy) -> None:
        self._compiled = compiled
        self._names = NameLines()
        for line in policy.lines:
            if not isinstance(line.target, Block):
                self._names.add(line)
        self._texts = {line.number: line.text for line in policy.lines}
        self._lines = cache(lambda number: AddressLines(compiled.rules[number - 1]))
        self._decide = lru_cache(maxsize=8192)(self._decision)

    def decision(self, raw: RawLine) -> Mapping[str, str | int | None]:
        """Return what was decided, as the JSON has it."""
        return self._decide(_text(raw.host) or "", raw.port, raw.rule, (raw.line, raw.bits), raw.server)

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

    def _decision(
        self, host: str, port: str, rule: str, notes: tuple[str, str], server: str
    ) -> dict[str, str | int | None]:
        compiled = self._compiled.rules[int(rule) - 1] if rule.isdecimal() else None
        denied = compiled.decision.value == "deny" if compiled else True
        number = None
        if compiled or rule == "default":
            by_address = compiled is not None and bool(compiled.addresses)
            number = self._address_line(int(rule), host, notes, server) if by_address else self._name_line(host, port)
        decision: dict[str, str | int | None] = {"decision": "deny" if denied else "allow"}
        if number in self._texts:
            decision |= {"line": number, "rule": self._texts[number]}
        elif compiled and compiled.addresses and number == 0:
            decision |= {"line": None, "reason": "a closed address"}
        elif compiled:
            decision |= {"line": None, "reason": "addresses of the name, in several lines"}
        else:
            decision |= {"line": None, "reason": REASONS.get(rule, REASONS["-"])}
        if not denied and server != "-":
            decision["server"] = server
        return decision

    def _address_line(self, rule: int, host: str, notes: tuple[str, str], server: str) -> int | None:
        line, bits = notes
        if line.isdecimal():
            return int(line)
        lines = self._lines(rule)
        address = literal_address(host) or literal_address(server)
        if address is not None:
            return lines.at(address)
        return lines.spelled(int(bit) for bit in unquote(bits).split(",") if bit.isdecimal())

    def _name_line(self, host: str, port: str) -> int | None:
        if not port.isdecimal():
            return None
        found = self._names.first(host.removesuffix(".").lower(), int(port))
        return found.number if found else None


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
