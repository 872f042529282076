"""Which connections a router that leaves waits for."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.model.connection import Connection
from egress_router.model.router import Protocol

#: A UDP flow has no end; it counts as over when no packet of it came for so long.
QUIET_SECONDS = 3.0
#: The kernel tells whole seconds until it forgets a flow, and moves that only when it is worth it.
_ROUNDING_SECONDS = 1.5


class Drain:
    """Remembers when UDP flows were last seen to be alive: each packet moves the time when the kernel forgets them."""

    def __init__(self) -> None:
        self._flows: dict[bytes, tuple[float, float]] = {}

    def left(self, connections: Iterable[Connection], now: float) -> int:
        """Return how many of ``connections``, which is all there are at ``now`` (seconds), still carry something."""
        count = 0
        flows: dict[bytes, tuple[float, float]] = {}
        for item in connections:
            if item.protocol is not Protocol.UDP:
                count += item.live
                continue
            end = now + item.timeout
            known = self._flows.get(item.key)
            if known is None or end >= known[0] + _ROUNDING_SECONDS:
                known = (end, now)
            flows[item.key] = known
            count += now - known[1] < QUIET_SECONDS
        self._flows = flows
        return count
