"""The access log of a Squid: parsed, counted, written as one JSON object a line with the policy line that decided."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from urllib.parse import unquote

from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.line_pipe import LinePipe
from egress_router.daemon.log import LogOutput
from egress_router.daemon.page.refusals import Refusals
from egress_router.http_proxy.squid.dns_reasons import DnsReasons
from egress_router.http_proxy.squid.errors import CONNECT_TIMEOUT, IDLE, Failure, failure
from egress_router.http_proxy.squid.idle_tunnels import IdleTunnels
from egress_router.http_proxy.squid.log_line import (
    Attribution,
    Frame,
    RawLine,
    RuleAttributor,
    entry,
    frame,
    parse,
    plain,
)
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


#: Texts behind the numbers that are remembered, of each Squid.
MOST_ALIKE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class _Alike:
    """What is known of all lines that differ in their numbers alone. ``raw`` has other numbers in their place.

    ``unfinished``: there will be another line. ``tunnel``: one that may have ended because nothing came.
    ``unresolved``: the name that had no address. ``refused``: who was refused what, and why.
    """

    raw: RawLine
    decided: Attribution
    failed: Failure | None
    frame: Frame
    unfinished: bool
    tunnel: bool
    unresolved: str | None
    refused: tuple[str, str, str] | None

    def add_to(self, counts: RequestCounts, times: int) -> None:
        """Count so many such lines, but for their bytes."""
        members = self.decided.members
        counts.decisions["invalid" if self.raw.rule == "-" else str(members["decision"])] += times
        if "rule" in members:
            counts.destinations[str(members["rule"])] += times
        if self.failed:
            counts.errors[self.failed.word] += times


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
        self._alike = lru_cache(maxsize=MOST_ALIKE)(self._alike_of)
        super().__init__(self._copy_lines, heartbeats, name)

    def _copy_lines(self, lines: list[bytes]) -> None:
        counts = RequestCounts()
        written = []
        refused = []
        seen: Counter[_Alike] = Counter()
        for text in (line.decode("utf-8", "replace") for line in lines):
            # Thousands a second of a busy proxy: what is not about the numbers in front is worked out once.
            try:
                time, size, duration, client_port, behind = text.split(" ", 4)
                # Less than nothing is what Squid says where the clock was set back meanwhile.
                sent, lasted = int(size), max(0, int(duration))
                alike = self._alike(behind, lasted >= CONNECT_TIMEOUT) if _is_time(time) else None
            except ValueError:
                alike = None
            if alike is None:
                log.warning("access log: a line that is not ours was dropped (%d characters)", len(text))
                continue
            if alike.unfinished:
                continue
            seen[alike] += 1
            counts.sent += sent
            if alike.refused:
                refused.append(alike.refused)
            idle = alike.tunnel and self._was_idle(alike.raw.client, client_port, time)
            if idle:
                counts.errors[IDLE.word] += 1
            if self._output is None:
                continue
            if alike.unresolved is not None and self._reasons:
                raw = alike.raw._replace(time=time, size=size, duration=str(lasted))
                self._reasons.tell(alike.unresolved, partial(self._write_later, raw, alike.decided))
            else:
                surrounding = frame(alike.raw, alike.decided, IDLE) if idle else alike.frame
                written.append(surrounding.text(time, sent, lasted).encode())
        for alike, count in seen.items():
            alike.add_to(counts, count)
        self._stats.add(counts)
        if self._refusals is not None:
            self._refusals.add(refused)
        if self._output:
            self._output.put(written)

    def _alike_of(self, behind: str, slow: bool) -> _Alike | None:
        """Return what is known of lines with this text behind the numbers; None when they are not ours."""
        raw = parse(f"0.0 0 {CONNECT_TIMEOUT if slow else 0} 0 {behind}")
        if raw is None:
            return None
        decided = self._attributor.decision(raw)
        allowed = decided.members["decision"] == "allow"
        failed = failure(raw, parent=self._attributor.parent) if allowed or raw.rule == "-" else None
        asked = failed is not None and failed.word == "dns" and literal_address(raw.host) is None
        refused = (plain(raw.client) or "-", f"{plain(raw.host)}:{raw.port}", _why(decided.members))
        return _Alike(
            raw,
            decided,
            failed,
            frame(raw, decided, failed),
            # The tunnel has a line of its own when it ends.
            unfinished=raw.outcome == PEEKED and raw.error == "-" and allowed,
            tunnel=allowed and failed is None and "TUNNEL" in raw.outcome,
            unresolved=unquote(raw.host) if asked else None,
            refused=None if allowed or raw.rule == "-" else refused,
        )

    def _was_idle(self, client: str, port: str, time: str) -> bool:
        """Return whether a tunnel ended because nothing came."""
        address = literal_address(unquote(client))
        return bool(self._idle and address and self._idle.was_idle(address, int(port), float(time)))

    def _write_later(self, raw: RawLine, decided: Attribution, reason: str) -> None:
        line = entry(raw, decided, Failure("dns", reason))
        if self._output and line:
            self._output.put([line.encode()])


def _why(members: Mapping[str, str | int | None]) -> str:
    return f'line {members["line"]} "{members["rule"]}"' if "rule" in members else str(members["reason"])


def _is_time(text: str) -> bool:
    second, _, fraction = text.partition(".")
    return second.isdecimal() and fraction.isdecimal()
