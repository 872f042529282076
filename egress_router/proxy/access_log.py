"""Squid's raw access log → one JSON object a line, with the policy line that decided.

Squid writes percent-encoded fields between spaces (the template), so nothing that a client sends can end a field
or a line; JSON is written by the json module. A thread for each Squid reads its pipe until that Squid is gone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from egress_router.model.http_policy import Block, HttpPolicy
from egress_router.model.http_rules import CompiledPolicy
from egress_router.plan.http_evaluate import evaluate, literal_address
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
    server: str
    tag: str
    error: str


def parse(raw: str) -> RawLine | None:
    """Return the fields of a raw line; None when it is not one of ours."""
    fields = raw.split()
    return RawLine._make(fields) if len(fields) == len(RawLine._fields) and fields[6].isdecimal() else None


class Translator:
    """Knows what decided about the raw lines of one generation. ``policy`` and ``compiled`` are what its Squid runs."""

    def __init__(self, policy: HttpPolicy, compiled: CompiledPolicy) -> None:
        self._policy = policy
        self._compiled = compiled
        self._names = NameLines()
        for line in policy.lines:
            if not isinstance(line.target, Block):
                self._names.add(line)
        self._texts = {line.number: line.text for line in policy.lines}
        self._decide = lru_cache(maxsize=8192)(self._decision)

    def decision(self, raw: RawLine) -> Mapping[str, str | int | None]:
        """Return what was decided, as the JSON has it."""
        # Squid's own tag tells a request that it refused from one that the server answered with 403.
        return self._decide(_text(raw.host) or "", raw.port, raw.rule, raw.line, raw.server, raw.tag)

    def json(self, raw: RawLine) -> str | None:
        """Return the JSON text of a raw line; None when it is not one of ours."""
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
        return json.dumps(head | dict(self.decision(raw)), ensure_ascii=True)

    def _decision(
        self, host: str, port: str, rule: str, line: str, server: str, tag: str
    ) -> dict[str, str | int | None]:
        compiled = self._compiled.rules[int(rule) - 1] if rule.isdecimal() else None
        denied = compiled.decision.value == "deny" if compiled else True
        number = None
        if compiled or rule == "default":
            number = self._line(host, port, compiled is not None and bool(compiled.addresses), line)
        decision: dict[str, str | int | None] = {"decision": "deny" if denied else "allow"}
        if number in self._texts:
            decision |= {"line": number, "rule": self._texts[number]}
        elif compiled and compiled.addresses and line == "0":
            decision |= {"line": None, "reason": "a closed address"}
        elif compiled:
            decision |= {"line": None, "reason": "an address of the name"}
        else:
            decision |= {"line": None, "reason": REASONS.get(rule, REASONS["-"])}
        if not denied and server != "-":
            decision["server"] = server
        return decision

    def _line(self, host: str, port: str, by_address: bool, noted: str) -> int | None:
        if by_address:
            if noted.isdecimal():
                return int(noted)
            literal = literal_address(host)
            if literal is not None and port.isdecimal():
                verdict = evaluate(self._policy, host, int(port))
                return verdict.line.number if verdict.line else None
            return None
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
            entry = self._translator.json(raw) if raw and self._output else ""
            if raw is None or entry is None:
                log.warning("access log: a line that is not ours was dropped (%d characters)", len(text))
                continue
            written.append(entry.encode())
            self._count(raw, counts)
        self._tally.add(counts)
        if self._output:
            self._output.put(written)

    def _count(self, raw: RawLine, counts: HttpCounts) -> None:
        decision = self._translator.decision(raw)
        counts.decisions["invalid" if raw.rule == "-" else str(decision["decision"])] += 1
        counts.sent += int(raw.size)
        if "rule" in decision:
            counts.destinations[str(decision["rule"])] += 1
        if (error := error_word(raw.error, raw.server)) and decision["decision"] == "allow":
            counts.errors[error] += 1
