"""Squid's raw access log → one JSON object a line, with the policy line that decided.

Squid writes percent-encoded fields between spaces (the template), so nothing that a client sends can end a field
or a line; JSON is written by the json module. A thread for each Squid reads its pipe until that Squid is gone.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import unquote

from egress_router.model.http_policy import Block, HttpPolicy
from egress_router.model.http_rules import CompiledPolicy
from egress_router.plan.http_evaluate import evaluate, literal_address
from egress_router.plan.http_names import NameLines

log = logging.getLogger(__name__)

FIELDS = 12
#: What decided when it was no line: the notes of squid.conf.j2 in words.
REASONS = {
    "manager": "the cache manager is closed",
    "scheme": "neither http nor https",
    "connect_ports": "not one of EGRESS_HTTP_PROXY_CONNECT_PORTS",
    "nowhere": "no destination",
    "default": "no line matches",
    "-": "not a request that could be judged",
}


class Translator:
    """Turns raw lines of one generation into JSON. ``policy`` and ``compiled`` are what that Squid runs."""

    def __init__(self, policy: HttpPolicy, compiled: CompiledPolicy) -> None:
        self._policy = policy
        self._compiled = compiled
        self._names = NameLines()
        for line in policy.lines:
            if not isinstance(line.target, Block):
                self._names.add(line)
        self._texts = {line.number: line.text for line in policy.lines}
        self._decide = lru_cache(maxsize=8192)(self._decision)

    def json(self, raw: str) -> str | None:
        """Return the JSON text of a raw line; None when it is not one of ours."""
        fields = raw.split()
        if len(fields) != FIELDS:
            return None
        time, client, method, host, port, status, size, duration, rule, line, server, tag = fields
        try:
            stamp = datetime.fromtimestamp(float(time), UTC).isoformat(timespec="milliseconds")
            head = {
                "time": stamp.replace("+00:00", "Z"),
                "client": client,
                "method": unquote(method),
                "host": _text(host),
                "port": int(port) if port.isdecimal() else None,
                "status": int(status),
                "bytes": int(size),
                "duration_ms": int(duration),
            }
        except ValueError:
            return None
        # Squid's own tag tells a request that it refused from one that the server answered with 403.
        return json.dumps(head | self._decide(_text(host) or "", port, rule, line, server, tag), ensure_ascii=True)

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


class AccessLog:
    """The pipe of one Squid and the thread that reads it. ``write_end`` becomes that Squid's standard output."""

    def __init__(self, translator: Translator, write: Callable[[str], None]) -> None:
        read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=_copy, args=(read_end, translator, write), daemon=True)
        self._thread.start()

    def started(self) -> None:
        """Close our write end: Squid has its own now, and the thread ends when that is closed."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def finish(self, seconds: float) -> None:
        """Wait until all that Squid wrote is out."""
        self.started()
        self._thread.join(seconds)


def _copy(read_end: int, translator: Translator, write: Callable[[str], None]) -> None:
    with os.fdopen(read_end, "r", encoding="utf-8", errors="replace", newline="\n") as raw:
        for line in raw:
            text = translator.json(line)
            if text is None:
                log.warning("access log: a line that is not ours was dropped (%d characters)", len(line))
            else:
                write(text)
