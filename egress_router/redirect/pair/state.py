"""What a router knows about its pair; read by the endpoint's threads, written by the loop."""

from __future__ import annotations

from typing import Any

from egress_router.records import dataclass, field
from egress_router.redirect.pair.values import PairConfig, Role

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another router, by the last advert that was heard of it: its source, priority, and when (time.monotonic()).
    ``ours``: it has the same EGRESS_SOURCE. One that has said that it stops was heard at minus infinity.
    """

    address: str
    priority: int
    heard: float
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Twin:
    """What another router of the pair said at its health port in the cluster: its role, whether it has the address, and
    in what it differs. ``problem`` says why it said nothing. ``mac`` is that of its egress interface.
    """

    role: str = ""
    holding: bool = False
    differs: tuple[str, ...] = ()
    problem: str = ""
    mac: str = ""


@dataclass(slots=True)
class PairState:
    """``since`` is of time.time(), ``why`` says what the last change came from. ``holding``: the address is in place.

    ``peers`` are by their MAC. ``blocked`` says why it must not take the address, empty when it may.
    ``both_active``: how many adverts of others came while it was active itself. ``splits``: how often another machine
    had the address in the egress network while none of its adverts came by the cluster's; ``waits_for`` is that machine
    while this router is elected and waits until it has it no more. ``mac``: of the egress interface. ``twins`` are by
    their address in the cluster; ``not_found`` says why there are none though EGRESS_PAIR_PEERS is set.
    """

    config: PairConfig
    role: Role = Role.STANDBY
    since: float = 0.0
    why: str = "it starts"
    changes: int = 0
    holding: bool = False
    blocked: str = ""
    peers: dict[str, Peer] = field(default_factory=dict)
    both_active: int = 0
    splits: int = 0
    waits_for: str = ""
    mac: str = ""
    restarts: int = 0
    twins: dict[str, Twin] = field(default_factory=dict)
    not_found: str = ""

    def active_peers(self, now: float) -> list[str]:
        """Return the peers whose adverts still count at ``now``, as a person reads them."""
        return [
            f"{mac} ({peer.address})"
            for mac, peer in list(self.peers.items())
            if peer.ours and now - peer.heard < self.config.patience
        ]

    def last_heard(self, now: float) -> str:
        """Return what was last heard of the peer that had the address, as the reason why somebody else takes it."""
        known = [(peer.heard, mac, peer) for mac, peer in list(self.peers.items()) if peer.ours]
        if not known:
            return "nobody else is active"
        heard, mac, peer = max(known, key=lambda item: item[0])
        if heard == _NEVER:
            return f"{mac} ({peer.address}) has stopped"
        if now - heard > 2 * self.config.interval:
            return f"no advert of {mac} ({peer.address}) for {now - heard:.2f} s"
        return f"{mac} ({peer.address}) has the lower priority {peer.priority}"

    def strangers(self, now: float) -> list[str]:
        """Return the MACs that use the pair's number for another EGRESS_SOURCE."""
        return [
            mac for mac, peer in list(self.peers.items()) if not peer.ours and now - peer.heard < self.config.patience
        ]

    def reasons(self, now: float) -> list[str]:
        """Return why the router is not ready, a sentence each; nothing when it is active and alone in that."""
        others = " and ".join(self.active_peers(now))
        found = [
            f"{mac} uses EGRESS_PAIR={self.config.number} for another EGRESS_SOURCE" for mac in self.strangers(now)
        ]
        if self.blocked:
            found.append(f"it does not take the address: {self.blocked}")
        if self.role is Role.ACTIVE:
            if not self.holding:
                found.append("it takes the address over")
            elif others:
                found.append(f"two are active: {others} is, too")
        elif self.role is Role.STANDBY and self.waits_for:
            found.append(f"standby: it is elected, and waits until {self.waits_for} no longer has the address")
        elif self.role is Role.STANDBY:
            found.append(f"standby: {others} has the address" if others else "standby: nobody has the address yet")
        elif not self.blocked:
            found.append(f"standby: it cannot take the address; {others or 'nobody'} has it")
        if self.role is not Role.ACTIVE:
            found += self._differences()
        return found

    def warnings(self) -> list[str]:
        """Return what is wrong with the others, a sentence each. It is no reason to take the router that has the
        address out of service: whoever can answer at a peer's address could do so for ever.
        """
        found = [f"peer {address}: {twin.problem}" for address, twin in self.twins.items() if twin.problem]
        if self.not_found:
            found.append(self.not_found)
        if self.role is Role.ACTIVE:
            found += self._differences()
            if self.config.peers and not self.standbys:
                found.append("nobody stands by: no peer that answers could take the address")
        return found

    @property
    def standbys(self) -> int:
        """How many of those that answer wait for the address."""
        return sum(twin.role == Role.STANDBY for twin in self.twins.values())

    @property
    def differing(self) -> int:
        """How many of those that answer differ from this router."""
        return sum(bool(twin.differs) for twin in self.twins.values())

    def _differences(self) -> list[str]:
        return [
            f"its {' and '.join(twin.differs)} are not those of the peer {address} ({twin.role})"
            for address, twin in self.twins.items()
            if twin.differs
        ]

    def as_json(self, now: float) -> dict[str, Any]:
        """Return the state as plain values."""
        return {
            "number": self.config.number,
            "role": str(self.role),
            "holding": self.holding,
            "since": self.since,
            "why": self.why,
            "changes": self.changes,
            "peers": {
                mac: {
                    "address": peer.address,
                    "priority": peer.priority,
                    "heard_seconds_ago": None if peer.heard == _NEVER else now - peer.heard,
                    "same_source": peer.ours,
                }
                for mac, peer in list(self.peers.items())
            },
            "blocked": self.blocked,
            "both_active": self.both_active,
            "network": str(self.config.network),
            "splits": self.splits,
            "restarts": self.restarts,
            "twins": {
                address: {
                    "role": twin.role,
                    "holding": twin.holding,
                    "differs": list(twin.differs),
                    "problem": twin.problem,
                }
                for address, twin in self.twins.items()
            },
            "not_found": self.not_found,
        }
