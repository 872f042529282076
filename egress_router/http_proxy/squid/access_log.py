"""The access log of a Squid: parsed, counted, written as one JSON object a line with the policy line that decided."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.daemon.children import LinePipe
from egress_router.daemon.log import LogOutput
from egress_router.http_proxy.squid.log_line import RawLine, RuleAttributor, entry, parse

# What Squid's access log adds up to. Requests count when they have ended, tunnels too.

#: Destination lines that have figures of their own, in the order in which they were first asked for.
MAX_DESTINATIONS = 1000
OTHER = "(other lines)"
#: Squid's name of what went wrong with a request that was allowed (its error pages) → a word for it.
ERRORS = {
    "ERR_DNS_FAIL": "dns",
    "ERR_CONNECT_FAIL": "connect",
    "ERR_CANNOT_FORWARD": "connect",
    "ERR_READ_TIMEOUT": "timeout",
    "ERR_READ_ERROR": "server",
    "ERR_WRITE_ERROR": "server",
    "ERR_ZERO_SIZE_OBJECT": "server",
    "ERR_INVALID_RESP": "server",
}
#: No fault of anybody: the client went away, or the answer is a refusal of ours.
NO_ERRORS = frozenset({"-", "ERR_CLIENT_GONE", "ERR_ACCESS_DENIED"})


def error_word(error: str, server: str) -> str | None:
    """Return a word for Squid's name of an error, from a small set; None when it is none.

    ``server`` is "-" where there was no address to connect to; Squid then says that it could not read.
    """
    if server == "-" and error in ERRORS:
        return "dns"
    return None if error in NO_ERRORS else ERRORS.get(error, "other")


@dataclass(slots=True)
class RequestCounts:
    """Requests by decision (``allow``, ``deny``, ``invalid``), by destination line, failed ones by ``error_word``, and
    bytes sent to clients.
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


# The access log of a Squid: counted, and written as one JSON object a line with the policy line that decided.
#
# A thread for each Squid reads its pipe until that Squid is gone.

log = logging.getLogger(__name__)


class AccessLog(LinePipe):
    """The log of one Squid: counted in ``stats`` and written to ``output`` (None: to nobody). ``write_end`` becomes
    that Squid's standard output.
    """

    def __init__(self, attributor: RuleAttributor, stats: RequestStats, output: LogOutput | None) -> None:
        self._attributor = attributor
        self._stats = stats
        self._output = output
        super().__init__(self._copy_lines)

    def _copy_lines(self, lines: list[bytes]) -> None:
        counts = RequestCounts()
        written = []
        for text in (line.decode("utf-8", "replace") for line in lines):
            raw = parse(text)
            decided = self._attributor.decision(raw) if raw else None
            line = entry(raw, decided) if raw and decided and self._output else ""
            if raw is None or decided is None or line is None:
                log.warning("access log: a line that is not ours was dropped (%d characters)", len(text))
                continue
            written.append(line.encode())
            _count(raw, decided.members, counts)
        self._stats.add(counts)
        if self._output:
            self._output.put(written)


def _count(raw: RawLine, decision: Mapping[str, str | int | None], counts: RequestCounts) -> None:
    counts.decisions["invalid" if raw.rule == "-" else str(decision["decision"])] += 1
    counts.sent += int(raw.size)
    if "rule" in decision:
        counts.destinations[str(decision["rule"])] += 1
    if raw.error != "-" and decision["decision"] == "allow" and (error := error_word(raw.error, raw.server)):
        counts.errors[error] += 1
