"""HAProxy's access log on its way to our standard output, and what it adds up to for each destination: connections
count when they have ended.

HAProxy writes its own remarks ("Proxy port-80 stopped") to the same place as the access log, so it cannot have our
standard output directly: everything there is JSON, one object a line.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from egress_router.config.values import Address
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.line_pipe import LinePipe
from egress_router.daemon.log import LogOutput
from egress_router.daemon.page.refusals import Refusals

#: HAProxy's termination states (configuration.txt, 8.5) of a connection that no server took: refused or none there,
#: or silent.
UNREACHED = frozenset({"SC", "sC"})


@dataclass(slots=True)
class Traffic:
    """Ended connections of a destination, how many of them reached no server, and bytes of both directions."""

    connections: int = 0
    unreached: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Asked:
    """Ended connections and requests by name: by decision (``allow``, ``deny``, ``invalid``), by the line that decided,
    and those that were allowed and failed by what failed.
    """

    decisions: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


#: Lines that have figures of their own, in the order in which they were first asked for.
MAX_LINES = 1000
OTHER = "(other lines)"
#: What is said of a connection by name that never got as far as a name.
NOTHING_ASKED = {"host": None, "decision": "invalid", "line": None, "reason": "nothing that has a name came"}


class ConnectionStats:
    """Adds up entries of the access log; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: defaultdict[str, Traffic] = defaultdict(Traffic)
        self._asked = Asked()

    def add(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Count these entries of the log. KeyError when one is not as render.haproxy has it."""
        with self._lock:
            for entry in entries:
                if "kind" in entry:
                    self._add_asked(entry)
                    continue
                found = self._found[f"{entry['port']} {entry['name']} {entry['to_port']}"]
                found.connections += 1
                found.unreached += entry["state"] in UNREACHED
                found.bytes += entry["bytes_up"] + entry["bytes_down"]

    def _add_asked(self, entry: Mapping[str, Any]) -> None:
        self._asked.decisions[entry["decision"]] += 1
        if rule := entry.get("rule"):
            known = rule in self._asked.lines or len(self._asked.lines) < MAX_LINES
            self._asked.lines[rule if known else OTHER] += 1
        if error := entry.get("error"):
            self._asked.errors[error] += 1

    def asked(self) -> Asked:
        """Return what was counted of connections by name so far."""
        with self._lock:
            asked = self._asked
            return Asked(Counter(asked.decisions), Counter(asked.lines), Counter(asked.errors))

    def read(self) -> dict[str, Traffic]:
        """Return what was counted so far, by destination ("8080 example.com 80")."""
        with self._lock:
            return {text: replace(traffic) for text, traffic in self._found.items()}


class LogPipe(LinePipe):
    """Lines of JSON are counted in ``stats`` and passed to ``output`` (None: to nobody), others to ``remark``.
    ``unreached`` hears of addresses that connections by name did not reach, ``refusals`` of what was denied by name.
    """

    def __init__(
        self,
        stats: ConnectionStats,
        output: LogOutput | None,
        remark: Callable[[str], None],
        unreached: Callable[[Address, int], None] = lambda _address, _port: None,
        heartbeats: Heartbeats | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._refusals = refusals
        self._unreached = unreached
        self._stats = stats
        self._output = output
        self._remark = remark
        super().__init__(self._sort, heartbeats)

    def _sort(self, lines: list[bytes]) -> None:
        texts = [line for line in lines if line.startswith(b"{")]
        # All at once, which takes half as long.
        entries = json.loads(b"[" + b",".join(texts) + b"]")
        for at, entry in enumerate(entries):
            if "kind" in entry:
                entries[at] = self._by_name(entry)
                texts[at] = json.dumps(entries[at], separators=(",", ":")).encode()
        if self._output:
            self._output.put(texts)
        self._stats.add(entries)
        if self._refusals is not None:
            self._refusals.add(_refused(entry) for entry in entries if entry.get("decision") == "deny")
        for line in lines:
            if line.strip() and not line.startswith(b"{"):
                self._remark(line.decode("utf-8", "replace"))

    def _by_name(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Put what the router said in its place, and what became of a connection that was allowed."""
        asked, to = entry.pop("asked"), entry.pop("to")
        record = NOTHING_ASKED if asked == "-" else json.loads(base64.b64decode(asked))
        front = ("time", "started", "kind", "client", "client_port", "port")
        found = {key: entry[key] for key in front} | record | {k: v for k, v in entry.items() if k not in front}
        if to != "-" and entry["state"][:2] in UNREACHED:
            self._unreached(ip_address(to), entry["port"])
            detail = "timed out" if entry["state"][0] == "s" else "refused or unreachable"
            found |= {"address": to, "error": "connect", "detail": detail}
        return found


def _refused(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    why = f'line {entry["line"]} "{entry["rule"]}"' if entry.get("rule") else str(entry.get("reason"))
    return str(entry["client"]), f"{entry['host']}:{entry['port']}", why
