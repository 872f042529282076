"""Which connections one that leaves waits for."""

from __future__ import annotations

import typing
from collections.abc import Iterable

from egress_router.config.values import Protocol

#: A UDP flow has no end; it counts as over when no packet of it came for so long.
QUIET_SECONDS = 3.0
#: The kernel tells whole seconds until it forgets a flow, and moves that only when it is worth it.
_ROUNDING_SECONDS = 1.5


class Tracked(typing.Protocol):
    """What counts of a connection; see model.connection."""

    @property
    def protocol(self) -> Protocol: ...  # noqa: D102
    @property
    def live(self) -> bool: ...  # noqa: D102
    @property
    def timeout(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes: ...  # noqa: D102


_Tracked = typing.TypeVar("_Tracked", bound=Tracked)


class Drain:
    """Remembers when UDP flows were last seen to be alive: each packet moves the time when the kernel forgets them."""

    def __init__(self) -> None:
        self._flows: dict[bytes, tuple[float, float]] = {}

    def left(self, connections: Iterable[Tracked], now: float) -> int:
        """Return how many of ``connections``, which is all there are at ``now`` (seconds), still carry something."""
        return len(self.carrying(connections, now))

    def carrying(self, connections: Iterable[_Tracked], now: float) -> list[_Tracked]:
        """Return those of ``connections``, which is all there are at ``now`` (seconds), that still carry something."""
        carrying = []
        flows: dict[bytes, tuple[float, float]] = {}
        for item in connections:
            if item.protocol is not Protocol.UDP:
                if item.live:
                    carrying.append(item)
                continue
            end = now + item.timeout
            known = self._flows.get(item.key)
            if known is None or end >= known[0] + _ROUNDING_SECONDS:
                known = (end, now)
            flows[item.key] = known
            if now - known[1] < QUIET_SECONDS:
                carrying.append(item)
        self._flows = flows
        return carrying
