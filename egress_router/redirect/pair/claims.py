"""Whether a machine that claims the address, and of which no advert has come, is another one or one of the pair."""

from __future__ import annotations

from egress_router.redirect.pair.values import LEASE_SECONDS

#: Somebody else's claim keeps the router from taking the address for so long after it was last heard.
CLAIM_SECONDS = 15.0
#: The kernel of a router that was killed has the address for so long, whoever it was.
DEAD_SECONDS = LEASE_SECONDS * 1.5
_MOST_MACHINES = 16


class Claims:
    """Remembers who claimed the address when."""

    def __init__(self) -> None:
        #: First and last, by the MAC.
        self._heard: dict[str, tuple[float, float]] = {}

    def until(self, mac: str, at: float, again: float) -> float:
        """Return until when the address must not be taken, after a machine claimed it ``at`` a time; a next claim is
        known ``again`` seconds later, if there is one.

        It may have been one of the pair that was killed before this router started: then it claims the address for
        DEAD_SECONDS at most, and so long nothing is decided. Whoever claims it after that has it.
        """
        first, last = self._heard.get(mac, (at, at))
        if at - last > CLAIM_SECONDS:
            first = at
        if mac not in self._heard and len(self._heard) >= _MOST_MACHINES:
            del self._heard[min(self._heard, key=lambda known: self._heard[known][1])]
        self._heard[mac] = first, at
        return at + CLAIM_SECONDS if at >= first + DEAD_SECONDS else first + DEAD_SECONDS + again
