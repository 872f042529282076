"""What happened to egress IPs and nodes, remembered for an hour. Pure: times are parameters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from egress_router.egressip.api import Decision
from egress_router.egressip.health import Health

#: How long a change is remembered; seconds.
SPAN = 3600.0
#: At most so many changes are remembered; older ones are counted.
MOST = 2000
#: Who has an address that no node has.
NOBODY = "nobody"


class Kind(StrEnum):
    """What changed."""

    ASSIGNED = "assigned"
    MOVED = "moved"
    FAILED_OVER = "failed over"
    RELEASED = "released"
    NODE = "node"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Change:
    """One change at ``at`` (seconds since the epoch) of ``subject`` (an egress IP or a node), and its cause."""

    at: float
    kind: Kind
    subject: str
    before: str
    after: str
    cause: str


@dataclass(slots=True)
class History:
    """Compares each decision with the one before. Nothing is told of the first: what was there did not change."""

    _changes: deque[Change] = field(default_factory=deque)
    #: Changes of the last hour that were not kept, for there were too many.
    forgotten: int = 0
    _holders: dict[str, str] | None = None
    _health: dict[str, Health] = field(default_factory=dict)
    _conflicts: dict[str, str] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)

    def observe(self, decision: Decision, health: Mapping[str, Health], now: float) -> None:
        """Take in what is decided and how nodes are at ``now`` (seconds since the epoch)."""
        holders = {via.ip: via.node for verdict in decision.namespaces.values() for via in verdict.via}
        conflicts = conflicts_of(decision)
        if self._holders is not None:
            self._compare_nodes(health, now)
            self._compare_holders(decision, holders, health, now)
            for ip in sorted(conflicts.keys() - self._conflicts.keys()):
                self._add(Change(now, Kind.CONFLICT, ip, "", "nobody may use it", conflicts[ip]))
            for ip in sorted(self._conflicts.keys() - conflicts.keys()):
                self._add(Change(now, Kind.CONFLICT, ip, self._conflicts[ip], "the conflict is over", ""))
        self._holders, self._health, self._conflicts = holders, dict(health), conflicts
        while self._changes and self._changes[0].at < now - SPAN:
            self._changes.popleft()
            self.forgotten = 0

    def changes(self, now: float) -> list[Change]:
        """Return the changes of the last hour, the newest first."""
        # Copied at once, for it may be asked from another thread than the one that observes.
        return [change for change in reversed(list(self._changes)) if change.at >= now - SPAN]

    def since(self, subject: str) -> float | None:
        """Return when an egress IP or a node last changed; None when it did not since this process looks."""
        return self._since.get(subject)

    def _add(self, change: Change) -> None:
        if len(self._changes) >= MOST:
            self._changes.popleft()
            self.forgotten += 1
        self._changes.append(change)
        self._since[change.subject] = change.at

    def _compare_nodes(self, health: Mapping[str, Health], now: float) -> None:
        for name in sorted(health.keys() | self._health.keys()):
            before, after = self._health.get(name), health.get(name)
            if before is not after:
                was = "new" if before is None else before.value
                is_now = "gone" if after is None else after.value
                self._add(Change(now, Kind.NODE, name, was, is_now, cause_of_health(before, after)))

    def _compare_holders(
        self, decision: Decision, holders: Mapping[str, str], health: Mapping[str, Health], now: float
    ) -> None:
        old = self._holders or {}
        for ip in sorted(holders.keys() | old.keys()):
            before, after = old.get(ip), holders.get(ip)
            if before == after:
                continue
            cause = self._cause(decision, ip, before, health)
            if before is None:
                self._add(Change(now, Kind.ASSIGNED, ip, NOBODY, str(after), cause))
            elif after is None:
                self._add(Change(now, Kind.RELEASED, ip, before, NOBODY, cause))
            else:
                failed = health.get(before) is Health.DOWN
                kind = Kind.FAILED_OVER if failed else Kind.MOVED
                self._add(Change(now, kind, ip, before, after, cause))

    def _cause(self, decision: Decision, ip: str, before: str | None, health: Mapping[str, Health]) -> str:
        if before is not None and health.get(before) is Health.DOWN:
            return f"node {before} is down"
        if before is not None and before not in decision.nodes:
            return f"node {before} is no longer there"
        if before is not None and health.get(before) is Health.DRAINING:
            return f"node {before} drains"
        automatic = any(ip in given for given in decision.assignment.values())
        return "assigned automatically" if automatic else "the objects changed"


def conflicts_of(decision: Decision) -> dict[str, str]:
    """Return the egress IPs that several namespaces or nodes list, each with the words about it."""
    found = {}
    for verdict in decision.namespaces.values():
        for reason in verdict.reasons:
            ip, _, words = reason.partition(": ")
            if words.startswith("listed by "):
                found[ip] = words
    return found


def cause_of_health(before: Health | None, after: Health | None) -> str:
    """Say why a node's health changed."""
    if before is None:
        return "a new object"
    return {
        None: "its object is gone",
        Health.DOWN: "no answer to pings",
        Health.DRAINING: "it hands its egress IPs over",
        Health.UP: "it answers, and its agent says that its translations stand",
        Health.UNKNOWN: "not probed often enough yet",
    }[after]
