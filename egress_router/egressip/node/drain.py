"""A hand-over of this node's egress IPs: what still uses them, and for how long that is waited for."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from ipaddress import ip_address
from pathlib import Path

from egress_router.daemon.drain import Drain
from egress_router.errors import PlatformError
from egress_router.net.conntrack import Conntrack, Departure

#: Seconds that connections are given to end, unless somebody says otherwise.
GRACE = 300.0
#: Seconds between two looks at the connections; longer where a look takes long.
LOOK_EVERY = 0.5
_REST = 5
#: Another boot is another life: what was handed over before it is not remembered.
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class HandOver:
    """Under way from ``start`` to ``end``, whatever becomes of who asked for it; a file keeps it for an agent that
    starts again. Times are those of time.monotonic().
    """

    def __init__(self, path: Path, post: Callable[[Callable[[], bool]], None], log: Callable[[str], None]) -> None:
        """``post`` has the loop call something; see Inbox."""
        self._path = path
        self._post = post
        self._log = log
        self._looking = False
        self._looked_once = False
        self._flows = Drain()
        #: When the next look is due.
        self.due = 0.0
        #: Until when connections are waited for; None: no hand-over.
        self.until = _read(path)
        #: Connections that leave with this node's addresses, by the address of their pod; None: not known.
        self.left: Counter[str] | None = None

    @property
    def draining(self) -> bool:
        """Tell whether a hand-over is under way or done."""
        return self.until is not None

    def start(self, grace: float) -> None:
        """Begin, or wait for so many seconds from now; raises nothing."""
        self.until = time.monotonic() + grace
        self.due = 0.0
        try:
            hidden = self._path.with_name(f".{self._path.name}.new")
            hidden.write_text(json.dumps({"boot": _boot(), "until": self.until}))
            hidden.replace(self._path)
        except OSError as error:
            self._log(f"an agent that starts again will not know of the hand-over: {self._path}: {error.strerror}")

    def end(self) -> None:
        """Take traffic again."""
        self.until = self.left = None
        self._looked_once = False
        self._flows = Drain()
        self._path.unlink(missing_ok=True)

    def over(self, now: float) -> bool:
        """Tell whether nothing is waited for any more."""
        if self.until is None or not self._looked_once:
            return False
        return now >= self.until or (self.left is not None and not self.left)

    def next_turn(self, now: float) -> float:
        """Return when something is to be done next."""
        if self.until is None:
            return float("inf")
        return min(self.due, self.until) if now < self.until else self.due

    def look(self, held: Collection[str], now: float) -> None:
        """Count the connections in a thread, if it is time to."""
        if self.until is None or now < self.due:
            return
        self.due = now + LOOK_EVERY
        if self._looking:
            return
        self._looking = True
        threading.Thread(target=self._look, args=(frozenset(held), self._flows), name="look", daemon=True).start()

    def _look(self, held: frozenset[str], flows: Drain) -> None:
        started = time.monotonic()
        left: Counter[str] | None = None
        try:
            found = _departures(held) if held else []
            left = Counter(item.client for item in flows.carrying(found, time.monotonic()))
        except (PlatformError, OSError) as error:
            self._log(f"connections are not counted: {error}")
        finally:
            # Also after what nobody foresaw: the next look is another try.
            self._post(lambda: self._looked(left, flows, time.monotonic() - started))

    def _looked(self, left: Counter[str] | None, flows: Drain, took: float) -> bool:
        self._looking = False
        self.due = max(self.due, time.monotonic() + _REST * took)
        if self.draining and flows is self._flows:
            self.left = left
            self._looked_once = True
        return False


def _departures(held: Collection[str]) -> list[Departure]:
    with Conntrack() as conntrack:
        return list(conntrack.leaving_as(map(ip_address, held)))


def _boot() -> str:
    return _BOOT.read_text().strip()


def _read(path: Path) -> float | None:
    """Return until when an agent before this one wanted to wait; None when it handed nothing over."""
    try:
        found = json.loads(path.read_text())
        return float(found["until"]) if found["boot"] == _boot() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
