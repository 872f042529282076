"""Which addresses this node stands by for, and which others stand by for its own; and the questions who has an address
whose holder is silent, asked before anybody has decided that it is gone. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from egress_router.egressip.api import ClusterState

#: While a holder is silent it is asked again so long after the last answer; seconds.
AGAIN = 0.15
#: So long after it was asked, that nobody has an address still counts; seconds. It is asked about again afterwards.
COUNTS = 0.5
#: Who has been silent for longer is asked about when the address is to move; seconds.
MOST = 15.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """``mine``: the standby of each address that is this node's by the objects; ``others``: the holder of each address
    that this node stands by for. Only nodes that there are.
    """

    mine: Mapping[str, str]
    others: Mapping[str, str]


def pairs_of(me: str, state: ClusterState) -> Pairs:
    """Return the pairs that node ``me`` is one of."""
    holders = {ip: name for name, ips in state.assignment.items() for ip in ips}
    mine: dict[str, str] = {}
    others: dict[str, str] = {}
    for ip, standby in state.standbys.items():
        holder = holders.get(ip, "")
        if holder == standby or not {holder, standby} <= state.nodes.keys():
            continue
        if holder == me:
            mine[ip] = standby
        elif standby == me:
            others[ip] = holder
    return Pairs(mine, others)


@dataclass(slots=True)
class _Silent:
    since: float
    due: float
    #: When the question began that nobody answered; None: none yet, or somebody did answer.
    free: float | None = None
    asked: float | None = None


@dataclass(slots=True)
class EarlyChecks:
    """Addresses whose holder is silent, and whether anybody answers for them."""

    _silent: dict[str, _Silent] = field(default_factory=dict)

    def due(self, silent: Collection[str], now: float) -> set[str]:
        """Take in whose holders are silent; return those to ask about now."""
        for ip in self._silent.keys() - set(silent):
            del self._silent[ip]
        found = set()
        for ip in silent:
            one = self._silent.setdefault(ip, _Silent(now, now))
            if one.due <= now < one.since + MOST:
                # Not again before there is an answer.
                one.asked, one.due = now, float("inf")
                found.add(ip)
        return found

    def answered(self, ip: str, *, free: bool, now: float) -> None:
        """Take in whether nobody has the address."""
        one = self._silent.get(ip)
        if one is not None:
            one.free = one.asked if free else None
            one.asked, one.due = None, now + AGAIN

    def is_free(self, ip: str, now: float) -> bool:
        """Return whether nobody had the address a moment ago, while its holder was silent."""
        one = self._silent.get(ip)
        return one is not None and one.free is not None and now - one.free < COUNTS

    def __bool__(self) -> bool:
        """Whether any holder is silent."""
        return bool(self._silent)
