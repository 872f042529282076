"""A drain of this node: what still uses its egress IPs, and for how long that is waited for."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from egress_router.config.files import read_regular
from egress_router.daemon.drain import Drain
from egress_router.errors import PlatformError
from egress_router.net.conntrack import Conntrack, Flow
from egress_router.net.icmp_probe import DrainPhase

#: Seconds that connections are given to end, unless somebody says otherwise.
GRACE = 300.0
#: Seconds between two counts of the connections; longer where counting takes long.
COUNT_EVERY = 0.5
_REST = 5
#: Nodes get so long to take over what was assigned automatically, once nothing else is waited for: the controller hears
#: of the drain within two seconds.
MOVE_SECONDS = 10.0
#: Another boot is another life: a drain before it is not remembered.
_BOOT = Path("/proc/sys/kernel/random/boot_id")

#: Does work in a thread and calls what follows in the loop; see Threads.job.
Job = Callable[..., Any]


class NodeDrain:
    """Under way from ``start`` to ``end``, whatever becomes of who asked for it; a file keeps it for an agent that
    starts again. Times are those of ``now``, which is time.monotonic().
    """

    def __init__(
        self, path: Path, job: Job, log: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        """``job`` does work in a thread, see Threads.job."""
        self._path = path
        self._job = job
        self._log = log
        self._now = now
        self._counting = False
        self._counted_once = False
        self._flows = Drain()
        #: When the next count is due.
        self.due = 0.0
        #: Until when connections are waited for; None: no drain.
        self.until, self.by_api = _read(path)
        self._over_since: float | None = None
        #: Connections that leave with this node's addresses, by the address of their pod; None: not known.
        self.left: Counter[str] | None = None

    @property
    def draining(self) -> bool:
        """Whether a drain is under way or done."""
        return self.until is not None

    def start(self, grace: float, *, by_api: bool = False) -> None:
        """Begin, or wait for so many seconds from now; raises nothing. ``by_api``: an EgressNode asks for it, and may
        have taken it back when an agent starts again.
        """
        self.until, self.by_api = self._now() + grace, by_api
        self.due = 0.0
        try:
            hidden = self._path.with_name(f".{self._path.name}.new")
            hidden.write_text(json.dumps({"boot": _boot(), "until": self.until, "api": by_api}))
            hidden.replace(self._path)
        except OSError as error:
            self._log(f"an agent that starts again will not know of the drain: {self._path}: {error.strerror}")

    def end(self) -> None:
        """Take traffic again."""
        self.until = self.left = self._over_since = None
        self.by_api = False
        self._counted_once = False
        self._flows = Drain()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._log(f"an agent that starts again will drain again: {self._path}: {error.strerror}")

    def over(self, now: float) -> bool:
        """Return whether nothing is waited for any more."""
        if self.until is None or not self._counted_once:
            return False
        return now >= self.until or (self.left is not None and not self.left)

    def phase(self, now: float, *, heard: bool) -> DrainPhase:
        """Return how far the drain is. ``heard``: every other node has had the time to hear of it, so what still begins
        here has no other way.
        """
        if not self.draining:
            return DrainPhase.NONE
        return DrainPhase.OVER if heard and self.over(now) else DrainPhase.WAITS

    def moves(self, phase: DrainPhase, now: float) -> bool:
        """Return whether it is waited for that addresses go to other nodes; nobody may be able to take them."""
        if phase is not DrainPhase.OVER:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        return self.draining and (self._over_since is None or now - self._over_since < MOVE_SECONDS)

    def next_turn(self, now: float) -> float:
        """Return when something is to be done next."""
        if self.until is None:
            return float("inf")
        return min(self.due, self.until) if now < self.until else self.due

    def count(self, assigned: Collection[str], now: float) -> None:
        """Count the connections in a thread, if it is time to."""
        if self.until is None or now < self.due:
            return
        self.due = now + COUNT_EVERY
        if self._counting:
            return
        self._counting = True
        ips, flows, started = frozenset(assigned), self._flows, self._now()
        self._job(
            "counting connections",
            lambda: self._count(ips, flows),
            lambda left: self._counted(left, flows, started),
            failed=lambda: self._counted(None, flows, started),
        )

    def _count(self, ips: frozenset[str], flows: Drain) -> Counter[str] | None:
        try:
            found = _open_flows(ips) if ips else []
            return Counter(item.client for item in flows.carrying(found, self._now()))
        except (PlatformError, OSError) as error:
            self._log(f"connections are not counted: {error}")
            return None

    def _counted(self, left: Counter[str] | None, flows: Drain, started: float) -> None:
        self._counting = False
        now = self._now()
        self.due = max(self.due, now + _REST * (now - started))
        if self.draining and flows is self._flows:
            self.left = left
            self._counted_once = True


def _open_flows(ips: Collection[str]) -> list[Flow]:
    with Conntrack() as conntrack:
        return list(conntrack.leaving_as(map(ip_address, ips)))


def _boot() -> str:
    return _BOOT.read_text().strip()


def _read(path: Path) -> tuple[float | None, bool]:
    """Return until when an agent before this one wanted to wait, None when it drained nothing; and whether an
    EgressNode had asked for it.
    """
    try:
        found = json.loads(read_regular(path, 1 << 12))
        return (float(found["until"]), found.get("api") is True) if found["boot"] == _boot() else (None, False)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, False
