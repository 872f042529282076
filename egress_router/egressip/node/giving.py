"""The egress IPs that this node gives to their standbys while it lives: it goes on translating to them until those have
them, and what still comes here a moment longer. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.egressip.node.handover import WAIT

#: What still comes here is translated for so long after the standby has the address; seconds. Pods' nodes change over
#: within two rounds of probes, and neighbours outside are told five times, once a second.
LINGER = 3.0


@dataclass(slots=True)
class _Given:
    standby: str
    until: float
    taken: bool = False


@dataclass(slots=True)
class Giving:
    """Addresses that are not this node's any more, and not yet, or not long, their standbys'."""

    _given: dict[str, _Given] = field(default_factory=dict)

    def begin(self, to: Mapping[str, str], now: float) -> None:
        """Give these addresses to these nodes."""
        for ip, standby in to.items():
            self._given[ip] = _Given(standby, now + WAIT)

    def follow(self, me: str, holders: Mapping[str, str], now: float) -> None:
        """Take in who is to have which address by the decision: one that is to go elsewhere is not given any more, nor
        is one whose time is over, nor one that is to come back to this node, ``me``, after the standby had it. One that
        comes back before is translated until it is here: its connections have never left.
        """
        for ip, one in list(self._given.items()):
            holder = holders.get(ip)
            goes_on = holder == one.standby or (holder == me and not one.taken)
            if not goes_on or now >= one.until:
                del self._given[ip]

    def is_back(self, ip: str) -> None:
        """Take in that this node has an address again."""
        self._given.pop(ip, None)

    def taken(self, ip: str, node: str, now: float) -> bool:
        """Take in that a node has an address now; return whether that is news."""
        one = self._given.get(ip)
        if one is None or one.standby != node or one.taken:
            return False
        one.taken, one.until = True, now + LINGER
        return True

    def translated(self) -> frozenset[str]:
        """Return the addresses that this node still translates to."""
        return frozenset(self._given)

    def awaited(self) -> dict[str, str]:
        """Return, by address, the standbys that do not have it yet."""
        return {ip: one.standby for ip, one in self._given.items() if not one.taken}

    def due(self) -> float | None:
        """Return when the next one is over, None when there is none."""
        return min((one.until for one in self._given.values()), default=None)
