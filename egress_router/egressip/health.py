"""Which holders are up: what a row of probes means. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
