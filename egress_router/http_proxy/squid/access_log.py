"""The access log of a Squid: parsed, counted, written as one JSON object a line with the policy line that decided."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote

from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.line_pipe import LinePipe
from egress_router.daemon.log import LogOutput
from egress_router.daemon.page.refusals import Refusals
from egress_router.http_proxy.squid.dns_reasons import DnsReasons
from egress_router.http_proxy.squid.errors import IDLE, Failure, failure
from egress_router.http_proxy.squid.idle_tunnels import IdleTunnels
from egress_router.http_proxy.squid.log_line import Attribution, RawLine, RuleAttributor, entry, parse, plain
from egress_router.policy.evaluate import literal_address

#: Destination lines that have figures of their own, in the order in which they were first asked for.
MAX_DESTINATIONS = 1000
OTHER = "(other lines)"


@dataclass(slots=True)
class RequestCounts:
    """Requests by decision (``allow``, ``deny``, ``invalid``), by destination line, failed ones by the words of
    ``errors``, and bytes sent to clients.
    """

    decisions: Counter[str] = field(default_factory=Counter)
    destinations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    sent: int = 0


class RequestStats:
    """The sum of all generations; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = RequestCounts()

    def add(self, batch: RequestCounts) -> None:
        """Add a batch."""
        with self._lock:
            self._sum.decisions.update(batch.decisions)
            self._sum.errors.update(batch.errors)
            self._sum.sent += batch.sent
            known = self._sum.destinations
            for text, count in batch.destinations.items():
                known[text if text in known or len(known) < MAX_DESTINATIONS else OTHER] += count

    def read(self) -> RequestCounts:
        """Return what was counted so far."""
        with self._lock:
            total = self._sum
            return RequestCounts(
                Counter(total.decisions), Counter(total.destinations), Counter(total.errors), total.sent
            )


log = logging.getLogger(__name__)

#: Squid's word for a CONNECT whose ClientHello it has read, before the tunnel begins.
PEEKED = "NONE_NONE"


class AccessLog(LinePipe):
    """The log of one Squid, read by a thread until that Squid is gone: counted in ``stats`` and written to ``output``
    (None: to nobody), with what ``reasons`` say about names that failed, and ``idle`` about tunnels; ``refusals`` hear
    of what was denied. ``write_end``
    becomes that Squid's standard output.
    """

    def __init__(
        self,
        attributor: RuleAttributor,
        stats: RequestStats,
        output: LogOutput | None,
        reasons: DnsReasons | None = None,
        idle: IdleTunnels | None = None,
        heartbeats: Heartbeats | None = None,
        name: str = "access-log",
        refusals: Refusals | None = None,
    ) -> None:
        self._refusals = refusals
        self._idle = idle
        self._reasons = reasons
        self._attributor = attributor
        self._stats = stats
        self._output = output
        super().__init__(self._copy_lines, heartbeats, name)

    def _copy_lines(self, lines: list[bytes]) -> None:
        counts = RequestCounts()
        written = []
        refused = []
        for text in (line.decode("utf-8", "replace") for line in lines):
            raw = parse(text)
            if raw is None:
                log.warning("access log: a line that is not ours was dropped (%d characters)", len(text))
                continue
            decided = self._attributor.decision(raw)
            if raw.outcome == PEEKED and raw.error == "-" and decided.members["decision"] == "allow":
                # The tunnel has a line of its own when it ends.
                continue
            judged = decided.members["decision"] == "allow" or raw.rule == "-"
            failed = failure(raw, parent=self._attributor.parent) if judged else None
            if failed is None and decided.members["decision"] == "allow" and self._was_idle(raw):
                failed = IDLE
            _count(raw, decided.members, failed, counts)
            if self._refusals is not None and decided.members["decision"] == "deny" and raw.rule != "-":
                refused.append((plain(raw.client) or "-", f"{plain(raw.host)}:{raw.port}", _why(decided.members)))
            if self._output is None:
                continue
            if failed and failed.word == "dns" and self._reasons and literal_address(raw.host) is None:
                self._reasons.tell(unquote(raw.host), partial(self._write_later, raw, decided))
            elif line := entry(raw, decided, failed):
                written.append(line.encode())
        self._stats.add(counts)
        if self._refusals is not None:
            self._refusals.add(refused)
        if self._output:
            self._output.put(written)

    def _was_idle(self, raw: RawLine) -> bool:
        """Return whether a tunnel ended because nothing came."""
        if self._idle is None or "TUNNEL" not in raw.outcome:
            return False
        client = literal_address(unquote(raw.client))
        return bool(client and self._idle.was_idle(client, int(raw.client_port), float(raw.time)))

    def _write_later(self, raw: RawLine, decided: Attribution, reason: str) -> None:
        line = entry(raw, decided, Failure("dns", reason))
        if self._output and line:
            self._output.put([line.encode()])


def _why(members: Mapping[str, str | int | None]) -> str:
    return f'line {members["line"]} "{members["rule"]}"' if "rule" in members else str(members["reason"])


def _count(
    raw: RawLine, decision: Mapping[str, str | int | None], failed: Failure | None, counts: RequestCounts
) -> None:
    counts.decisions["invalid" if raw.rule == "-" else str(decision["decision"])] += 1
    counts.sent += int(raw.size)
    if "rule" in decision:
        counts.destinations[str(decision["rule"])] += 1
    if failed:
        counts.errors[failed.word] += 1
