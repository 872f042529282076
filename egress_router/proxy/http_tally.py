"""What Squid's access log adds up to. Requests count when they have ended, tunnels too."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

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
class HttpCounts:
    """Requests by decision (``allow``, ``deny``, ``invalid``), by destination line, failed ones by ``error_word``, and
    bytes sent to clients.
    """

    decisions: Counter[str] = field(default_factory=Counter)
    destinations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    sent: int = 0


class HttpTally:
    """The sum of all generations; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = HttpCounts()

    def add(self, batch: HttpCounts) -> None:
        """Add a batch."""
        with self._lock:
            self._sum.decisions.update(batch.decisions)
            self._sum.errors.update(batch.errors)
            self._sum.sent += batch.sent
            known = self._sum.destinations
            for text, count in batch.destinations.items():
                known[text if text in known or len(known) < MAX_DESTINATIONS else OTHER] += count

    def read(self) -> HttpCounts:
        """Return what was counted so far."""
        with self._lock:
            total = self._sum
            return HttpCounts(Counter(total.decisions), Counter(total.destinations), Counter(total.errors), total.sent)
