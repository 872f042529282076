"""How many source ports of an egress IP are in use: two connections to one remote address and port need two.

When there are none left, the kernel drops what begins a connection. See nf_nat_core.c (get_unique_tuple).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import ip_address

from egress_router.egressip.node.drain import Job
from egress_router.errors import PlatformError
from egress_router.net.conntrack import Conntrack, Use

#: Ports that the kernel gives, of 1024 to 65535, when a pod's own is taken.
PORTS = 65536 - 1024
#: Seconds between two counts; longer where counting takes long.
COUNT_EVERY = 15.0
_REST = 20
#: Pairs of egress IP and remote that have figures of their own: those with the most ports.
MOST_REMOTES = 20
#: From this share of the ports on it is a problem.
NEARLY_ALL = 0.8


@dataclass(slots=True)
class SourcePorts:
    """Counts in a thread. ``used``: the ports of the pairs with the most. Times are those of ``now``."""

    job: Job
    log: Callable[[str], None]
    now: Callable[[], float] = time.monotonic
    used: dict[Use, int] = field(default_factory=dict)
    due: float = 0.0
    _counting: bool = False

    def count(self, assigned: Collection[str]) -> None:
        """Count what leaves with these addresses, if it is time to."""
        now = self.now()
        if now < self.due or self._counting:
            return
        self.due = now + COUNT_EVERY
        if not assigned:
            self.used = {}
            return
        self._counting = True
        ips = frozenset(assigned)
        self.job(
            "counting source ports",
            lambda: self._count(ips),
            lambda used: self._counted(used, now),
            failed=lambda: self._counted({}, now),
        )

    def _count(self, ips: frozenset[str]) -> dict[Use, int]:
        try:
            with Conntrack() as conntrack:
                return dict(Counter(conntrack.ports_used(map(ip_address, ips))).most_common(MOST_REMOTES))
        except (PlatformError, OSError) as error:
            self.log(f"source ports are not counted: {error}")
            return {}

    def _counted(self, used: dict[Use, int], started: float) -> None:
        self._counting = False
        self.used = used
        now = self.now()
        self.due = max(self.due, now + _REST * (now - started))

    def problems(self) -> list[str]:
        """Return which egress IPs run out of ports towards a remote, and what to do."""
        return [
            f"{use.source} uses {count} of {PORTS} source ports for {use.protocol} to {use.remote} port {use.port}; "
            "when they are used up, connections there fail. Give the namespace another egress IP, on another node"
            for use, count in self.used.items()
            if count > NEARLY_ALL * PORTS
        ]
