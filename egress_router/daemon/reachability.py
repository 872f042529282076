"""When something counts as reachable or a node as up: a few misses in a row to lose it, a few answers in a row to have
it back, and a hold-down for what flaps. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# When something counts as reachable: one answer at first, then a few misses in a row to lose it and a few answers in a
# row to get it back.


@dataclass(slots=True)
class Reachability:
    """Counts probes. ``up`` is None until the first answer, or until ``failures`` misses."""

    failures: int = 3
    successes: int = 2
    up: bool | None = None
    missed: int = 0
    answered: int = 0

    def note(self, *, answer: bool) -> bool:
        """Take the outcome of a probe; return whether ``up`` has changed."""
        before = self.up
        if answer:
            self.answered, self.missed = self.answered + 1, 0
            if self.up is None or self.answered >= self.successes:
                self.up = True
        else:
            self.answered, self.missed = 0, self.missed + 1
            if self.missed >= self.failures:
                self.up = False
        return self.up != before


# Which holders are up: what a row of probes means. Pure.


class Health(StrEnum):
    """``UNKNOWN``: not probed often enough yet. ``DRAINING``: works, and wants nothing new."""

    UNKNOWN = "unknown"
    UP = "up"
    DRAINING = "draining"
    DOWN = "down"


@dataclass(slots=True)
class HolderHealth:
    """The health of one holder.

    Down: ``misses`` probes in a row without an ICMP echo, which the node's kernel answers: an agent that restarts is
    no outage. Up (again): ``returns`` probes in a row with an echo and the word of the node's agent that its
    translations stand. A holder that was in use before this agent started is up until it misses, and one that carried
    connections is draining until it says otherwise.
    """

    misses: int
    returns: int
    state: Health = Health.UNKNOWN
    missed: int = 0
    good: int = 0

    def probed(self, *, echo: bool, ready: bool, draining: bool) -> bool:
        """Take in one probe; True when the state changed."""
        before = self.state
        self.missed = 0 if echo else self.missed + 1
        self.good = self.good + 1 if echo and ready and not draining else 0
        if self.missed >= self.misses:
            self.state = Health.DOWN
        elif self.state in (Health.UP, Health.UNKNOWN) and echo and draining:
            self.state = Health.DRAINING
        elif self.state is not Health.UP and self.good >= (1 if self.state is Health.UNKNOWN else self.returns):
            self.state = Health.UP
        return self.state is not before


# How long a node that came back is given nothing, so that one that flaps does not take addresses with it. Pure.

#: The longest wait; seconds.
MOST = 600.0
#: An outage counts as a repetition when the one before ended less than this many waits ago.
REMEMBERED = 10


@dataclass(slots=True)
class HoldDown:
    """One node's outages. The first return is waited for ``first`` seconds, each repetition twice as long as the one
    before, as damping of routes does (RFC 2439); a node that stayed up for long starts anew.
    """

    first: float
    wait: float = 0.0
    until: float = 0.0

    def came_back(self, now: float) -> None:
        """Note the end of an outage at ``now`` (seconds of a monotonic clock)."""
        again = self.wait > 0 and now < self.until + REMEMBERED * self.wait
        self.wait = min(2 * self.wait, MOST) if again else self.first
        self.until = now + self.wait

    def held(self, now: float) -> bool:
        """Tell whether the node is still to be waited for."""
        return now < self.until
