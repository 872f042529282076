"""What the long-lived router knows about itself; read by the endpoint's threads, written by the loop and its worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from egress_router.config.values import Address, HostName
from egress_router.daemon.endpoint import bounded
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.page.view import ListHistory
from egress_router.daemon.reachability import Reachability
from egress_router.records import dataclass, field
from egress_router.redirect.pair.state import PairState
from egress_router.redirect.values import Check


@dataclass(frozen=True, slots=True)
class NameState:
    """A name: the addresses in use, when (time.monotonic()) the last good answer came, why the last look-up brought
    none, how many look-ups have failed, and the full name that was answered.
    """

    addresses: tuple[Address, ...] = ()
    answered: float | None = None
    problem: str = "not looked up yet"
    failures: int = 0
    answered_as: str | None = None

    @property
    def new(self) -> bool:
        """Whether no look-up has ended yet."""
        return self.answered is None and not self.failures


@dataclass(slots=True)
class State:
    """Times are of time.time() where they are shown to people, else of time.monotonic().

    ``taking``: while it leaves, it goes on with new connections as before, for nobody else may be there to take them.
    ``problem`` says why the kernel is not as desired; empty when the last look found that it is.
    """

    interface: str
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    problem: str = ""
    carrier: bool = True
    leaving: bool = False
    taking: bool = False
    gateways: dict[Address, Reachability] = field(default_factory=dict)
    checks: dict[Check, Reachability] = field(default_factory=dict)
    names: dict[HostName, NameState] = field(default_factory=dict)
    only_names: bool = False
    conflicts: dict[Address, tuple[str, float]] = field(default_factory=dict)
    conflicts_seen: int = 0
    repairs: int = 0
    reloads: int = 0
    reload_failures: int = 0
    last_reload: float | None = None
    listed: ListHistory = field(default_factory=ListHistory)
    reload_error: str = ""
    pair: PairState | None = None

    @property
    def holding(self) -> bool:
        """Whether it has its addresses: always, but for one of a pair."""
        return self.pair is None or self.pair.holding

    def follow(self, names: Iterable[HostName], *, only: bool) -> None:
        """Know ``names`` and no others; what is known about them stays. ``only``: there are no other destinations."""
        self.only_names = only
        self.names = {name: self.names.get(name, NameState()) for name in names}

    def reasons(self, now: float) -> list[str]:
        """Return why the router is not ready, a sentence each; nothing when it is. ``now`` is time.monotonic()."""
        found = []
        if self.leaving and not self.taking:
            found.append("leaving")
        if self.problem:
            found.append(f"the kernel is not as desired: {self.problem}")
        if not self.carrier:
            found.append(f"{self.interface} has no carrier")
        for address, gateway in list(self.gateways.items()):
            if not gateway.up:
                found.append(f"gateway {address} does not answer on {self.interface}")
        for source, (mac, until) in list(self.conflicts.items()):
            if now < until:
                found.append(f"{mac} claims {source} too")
        if self.pair is not None:
            found += self.pair.reasons(now)
        for check, reached in list(self.checks.items()) if self.holding else ():
            if not reached.up:
                found.append(f"{check} does not accept connections")
        known = list(self.names.values())
        if known and self.only_names and not any(item.addresses for item in known):
            found.append("no destination has an address")
        elif self.last_reload is None and any(item.new for item in known):
            # At the start alone: a list that gets a name later must not take the other destinations out of service.
            found.append("names are looked up for the first time")
        return found

    def warnings(self) -> list[str]:
        """Return what is wrong with some destinations and leaves the others as they are, a sentence each."""
        found = [
            f"{name} has no address: {item.problem}; what is sent to it is dropped"
            for name, item in list(self.names.items())
            if not item.addresses
        ]
        return found if self.pair is None else found + self.pair.warnings()

    def as_json(self, now: float) -> dict[str, Any]:
        """Return the state as plain values; ``now`` is time.monotonic()."""
        reasons = self.reasons(now)
        return {
            "ready": not reasons,
            "reasons": bounded(reasons) + bounded(self.warnings()),
            "link_up": self.carrier,
            "gateways": {str(address): bool(gateway.up) for address, gateway in list(self.gateways.items())},
            "checks": {str(check): bool(reached.up) for check, reached in list(self.checks.items())},
            "names": {str(name): _as_json(item, now) for name, item in list(self.names.items())},
            "last_reload": self.last_reload,
            "reloads": self.reloads,
            "reload_failures": self.reload_failures,
            "reload_error": self.reload_error,
            "repairs": self.repairs,
            "conflicts": self.conflicts_seen,
            "pair": None if self.pair is None else self.pair.as_json(now),
        }


def _as_json(item: NameState, now: float) -> dict[str, Any]:
    return {
        "addresses": [str(address) for address in item.addresses],
        "answer_age": None if item.answered is None else now - item.answered,
        "problem": item.problem,
        "failures": item.failures,
        "answered_as": item.answered_as,
    }
