"""How long a node that came back is given nothing, so that one that flaps does not take addresses with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

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
        """Return whether the hold-down timer is running."""
        return now < self.until
