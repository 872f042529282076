"""The egress IPs that this node shall have: which fit its interface, which it has, and when the others are tried."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address

from egress_router.model.network import Observed

#: An address that another machine has is tried again after so long, then twice as long, at most the other; seconds.
#: The machine before us may be giving it up this moment.
RETRY_CLAIM, RETRY_CLAIM_MOST = 0.3, 10.0
#: So many addresses fit a datagram; a node that lacks more is about to get them, or has other problems.
MOST_LACKED = 40


@dataclass(slots=True)
class Holdings:
    """``held``: on the interface. ``refused``: another machine answers. ``misfits``: cannot stand on this interface."""

    interface: str
    held: frozenset[str] = frozenset()
    refused: dict[str, str] = field(default_factory=dict)
    misfits: dict[str, str] = field(default_factory=dict)
    _retries: dict[str, tuple[float, float]] = field(default_factory=dict)

    def fitting(self, claims: Collection[str], host_ip: str, observed: Observed) -> list[str]:
        """Return the claims that the interface can hold, and note why the others do not fit."""
        self.misfits = {}
        if not claims:
            return []
        if host_ip not in {str(a.address.ip) for a in observed.addresses}:
            self.misfits = dict.fromkeys(claims, f"hostIP {host_ip} is not an address of this machine")
            return []
        subnets = [
            a.address.network
            for a in observed.addresses
            if a.interface == self.interface
            and a.global_scope
            and a.address.network.prefixlen < a.address.max_prefixlen
        ]
        fitting = [ip for ip in claims if any(ip_address(ip) in subnet for subnet in subnets)]
        self.misfits = dict.fromkeys(set(claims) - set(fitting), f"outside the subnets of {self.interface}")
        return fitting

    def settle(self, wanted: set[str], now: float) -> set[str]:
        """Forget what is not wanted any more; return what is to be checked now, before it is claimed."""
        self.held &= wanted
        self.refused = {ip: why for ip, why in self.refused.items() if ip in wanted}
        for ip in self._retries.keys() - wanted:
            del self._retries[ip]
        due = {ip for ip in wanted - self.held if self._retries.get(ip, (0.0, 0.0))[0] <= now}
        for ip in due & self._retries.keys():
            self._retries[ip] = (now + RETRY_CLAIM_MOST, self._retries[ip][1])
        return due

    def refuse(self, ip: str, reason: str, now: float) -> None:
        """Another machine answers for the address; it is tried again later."""
        self.refused[ip] = reason
        wait = min(2 * self._retries[ip][1], RETRY_CLAIM_MOST) if ip in self._retries else RETRY_CLAIM
        self._retries[ip] = (now + wait, wait)

    def free(self, ip: str) -> None:
        """Nobody answers for the address."""
        self.refused.pop(ip, None)
        self._retries.pop(ip, None)

    def next_try(self) -> float | None:
        """Return when the next address is to be tried again, None when none is."""
        return min((at for at, _ in self._retries.values()), default=None)

    def lacked(self, wanted: set[str]) -> tuple[str, ...]:
        """Return the addresses that other nodes are told not to use here, as many as fit a datagram."""
        return tuple(sorted(wanted - self.held | self.misfits.keys())[:MOST_LACKED])

    def settled(self, wanted: set[str]) -> bool:
        """Tell whether everything wanted is here, or refused for a reason."""
        return wanted <= (self.held | self.refused.keys())
