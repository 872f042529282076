"""Where the connections of this node's pods lead while an egress IP goes from its holder to its standby. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

#: Connections of a holder that went are kept so long for its standby, then cut; seconds. The controller needs a part of
#: it to see that the holder is down.
WAIT = 15.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """An egress IP that its standby has now: the connections that led to ``old`` go on by ``new``."""

    ip: str
    old: str
    new: str


@dataclass(slots=True)
class _Known:
    """Of one egress IP: the node that connections lead to, the standby of that time, since when (seconds) it is waited
    for, and since when it is to have the address; None when it is not. ``has_it``: the standby has said so since.
    """

    leads_to: str
    standby: str
    since: float | None = None
    moved: float | None = None
    has_it: bool = False


@dataclass(slots=True)
class Handovers:
    """The egress IPs that pods of this node use."""

    _known: dict[str, _Known] = field(default_factory=dict)

    def follow(
        self,
        wanted: Collection[str],
        holders: Mapping[str, str],
        standbys: Mapping[str, str],
        down: Collection[str],
        now: float,
    ) -> None:
        """Take in who has which of the ``wanted`` addresses by the decision, who stands by, and which nodes are
        ``down``.
        """
        for ip in self._known.keys() - set(wanted):
            del self._known[ip]
        for ip in wanted:
            holder, known = holders.get(ip, ""), self._known.get(ip)
            if known is None or (known.leads_to != holder and not self._may_wait(known, holder, now)):
                # Nothing is known of it, or nobody has its connections.
                self._known.pop(ip, None)
                if holder:
                    self._known[ip] = _Known(holder, standbys.get(ip, ""))
                continue
            if holder != known.leads_to or known.leads_to in down:
                known.since = now if known.since is None else known.since
                if holder != known.standby:
                    known.moved = None
                elif known.moved is None:
                    known.moved = now
            else:
                known.since = known.moved = None
                known.has_it = False
                known.standby = standbys.get(ip, "")

    @staticmethod
    def _may_wait(known: _Known, holder: str, now: float) -> bool:
        in_time = known.since is None or now - known.since < WAIT
        return bool(known.standby) and holder in ("", known.standby) and in_time

    def waiting(self, now: float) -> dict[str, tuple[str, str]]:
        """Return, by address, the node whose connections wait, and the standby that they wait for."""
        return {
            ip: (known.leads_to, known.standby)
            for ip, known in self._known.items()
            if known.standby and known.since is not None and now - known.since < WAIT
        }

    def leads(self) -> dict[str, str]:
        """Return the node that the connections of each address lead to."""
        return {ip: known.leads_to for ip, known in self._known.items()}

    def awaited(self, now: float) -> frozenset[str]:
        """Return the nodes whose connections wait for a standby."""
        return frozenset(node for node, _ in self.waiting(now).values())

    def due(self, now: float) -> float | None:
        """Return when the next one was waited for long enough, None when none is."""
        ends = (known.since + WAIT for known in self._known.values() if known.standby and known.since is not None)
        return min((end for end in ends if end > now), default=None)

    def __bool__(self) -> bool:
        """Whether any address is followed."""
        return bool(self._known)

    def kept_by(self, down: Collection[str]) -> dict[str, str]:
        """Return, by address, the former holder of each that is its standby's by now and that the standby has not got
        yet: what begins goes there, too. None of those that are ``down``.
        """
        return {
            ip: known.leads_to
            for ip, known in self._known.items()
            if known.moved is not None and known.leads_to not in down
        }

    def heard(self, ip: str, node: str) -> bool:
        """Take in that a node translates to an address; return whether that is news and it is waited for."""
        known = self._known.get(ip)
        if known is None or known.since is None or known.standby != node or known.has_it:
            return False
        known.has_it = True
        return True

    def arrivals(self, ready: Mapping[str, Collection[str]]) -> list[Arrival]:
        """Return the addresses that their standbys have, as was ``heard``; ``ready``: by node, those that it does not
        say it lacks. Each is returned until it is ``settled``.
        """
        return [
            Arrival(ip, known.leads_to, known.standby)
            for ip, known in sorted(self._known.items())
            if known.moved is not None and known.has_it and ip in ready.get(known.standby, ())
        ]

    def settled(self, arrival: Arrival, standby: str) -> None:
        """Take in that the connections were led there, and who stands by now."""
        self._known[arrival.ip] = _Known(arrival.new, standby)
