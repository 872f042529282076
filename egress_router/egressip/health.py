"""Which nodes are up: what a row of probes means. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from egress_router.daemon.reachability import Reachability


class Health(StrEnum):
    """``UNKNOWN``: not probed often enough yet. ``DRAINING``: works, and wants nothing new."""

    UNKNOWN = "unknown"
    UP = "up"
    DRAINING = "draining"
    DOWN = "down"


#: What each is to whoever counts probes: one that drains comes back as one that was down does.
_REACHABLE = {Health.UNKNOWN: None, Health.UP: True, Health.DRAINING: False, Health.DOWN: False}


@dataclass(slots=True)
class NodeHealth:
    """The health of one node.

    Down: ``misses`` probes in a row without an ICMP echo, which the node's kernel answers: an agent that restarts is
    no outage. Up (again): ``returns`` probes in a row with an echo and the word of the node's agent that its
    translations stand. A gateway that was in use before this agent started is up until it misses, and one that carried
    connections is draining until it says otherwise.
    """

    misses: int
    returns: int
    state: Health = Health.UNKNOWN
    probes: Reachability = field(init=False)

    def __post_init__(self) -> None:
        self.probes = Reachability(self.misses, self.returns)

    def probed(self, *, echo: bool, ready: bool, draining: bool) -> bool:
        """Take in one probe; return whether the state changed."""
        before = self.state
        self.probes.up = _REACHABLE[before]
        self.probes.note(answer=echo, good=ready and not draining)
        if self.probes.missed >= self.misses:
            self.state = Health.DOWN
        elif echo and draining and before in (Health.UP, Health.UNKNOWN):
            self.state = Health.DRAINING
        elif self.probes.up:
            self.state = Health.UP
        return self.state is not before
