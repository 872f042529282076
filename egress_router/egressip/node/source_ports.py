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
from egress_router.egressip.node_figures import NEARLY_ALL, PORTS
from egress_router.errors import PlatformError
from egress_router.net.conntrack import Conntrack, Use

#: Seconds between two counts; longer where counting takes long.
COUNT_EVERY = 15.0
_REST = 20
#: Pairs of egress IP and remote that have figures of their own: those with the most ports.
MOST_REMOTES = 20


@dataclass(slots=True)
class SourcePorts:
    """Counts in a thread. ``used``: the ports of the pairs with the most; by egress IP, ``connections``: how many leave
    with it (TCP, UDP, SCTP), and ``most``: the ports in use towards one remote. Times are those of ``now``.
    """

    job: Job
    log: Callable[[str], None]
    now: Callable[[], float] = time.monotonic
    used: dict[Use, int] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    due: float = 0.0
    _counting: bool = False

    def count(self, assigned: Collection[str]) -> None:
        """Count what leaves with these addresses, if it is time to."""
        now = self.now()
        if now < self.due or self._counting:
            return
        self.due = now + COUNT_EVERY
        if not assigned:
            self._take({})
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
                return Counter(conntrack.ports_used(map(ip_address, ips)))
        except (PlatformError, OSError) as error:
            self.log(f"source ports are not counted: {error}")
            return {}

    def _counted(self, used: dict[Use, int], started: float) -> None:
        self._counting = False
        self._take(used)
        now = self.now()
        self.due = max(self.due, now + _REST * (now - started))

    def _take(self, used: dict[Use, int]) -> None:
        connections: Counter[str] = Counter()
        most: dict[str, int] = {}
        for use, count in used.items():
            ip = str(use.source)
            connections[ip] += count
            most[ip] = max(most.get(ip, 0), count)
        self.used = dict(Counter(used).most_common(MOST_REMOTES))
        self.connections, self.most = dict(connections), most

    def problems(self) -> list[str]:
        """Return which egress IPs run out of ports towards a remote, and what to do."""
        return [
            f"{use.source} uses {count} of {PORTS} source ports for {use.protocol} to {use.remote} port {use.port}; "
            "when they are used up, connections there fail. Give the namespace another egress IP, on another node"
            for use, count in self.used.items()
            if count > NEARLY_ALL * PORTS
        ]
