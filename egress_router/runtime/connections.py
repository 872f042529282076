"""The tracked connections of a router."""

from __future__ import annotations

from egress_router.kernel.conntrack import Conntrack
from egress_router.model.addresses import Address
from egress_router.model.connection import Connection
from egress_router.model.desired import Desired
from egress_router.plan.connections import Sieve


def translated(desired: Desired) -> list[Connection]:
    """Return the translated connections. Raises PlatformError."""
    with Conntrack() as conntrack:
        return [item for item in conntrack.connections(_addresses(desired)) if item.translated]


def end_stale(desired: Desired) -> int:
    """End the connections that the rules in force would not make; return how many. Raises PlatformError."""
    sieve, addresses = Sieve(desired.translation), _addresses(desired)
    with Conntrack() as conntrack:
        if desired.translation.rules.names:
            # The mark that a name's rule has left decides as well.
            return conntrack.end([item for item in conntrack.connections(addresses) if sieve.stale(item)])
        return conntrack.end(conntrack.choose(addresses, sieve.stale))


def _addresses(desired: Desired) -> list[Address]:
    return [address for found in desired.network.pod_addresses.values() for address in found]
