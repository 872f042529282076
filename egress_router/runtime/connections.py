"""The tracked connections of a router."""

from __future__ import annotations

from collections.abc import Iterator

from egress_router.kernel.conntrack import Conntrack
from egress_router.model.connection import Connection
from egress_router.model.desired import Desired
from egress_router.plan.connections import Sieve


def translated(desired: Desired) -> list[Connection]:
    """Return the translated connections. Raises PlatformError."""
    with Conntrack() as conntrack:
        return [item for item in _connections(desired, conntrack) if item.translated]


def end_stale(desired: Desired) -> int:
    """End the connections that the rules in force would not make; return how many. Raises PlatformError."""
    with Conntrack() as conntrack:
        found = list(_connections(desired, conntrack))
        if not found:
            return 0
        sieve = Sieve(desired.translation)
        return conntrack.end(item for item in found if sieve.stale(item))


def _connections(desired: Desired, conntrack: Conntrack) -> Iterator[Connection]:
    addresses = [address for found in desired.network.pod_addresses.values() for address in found]
    return conntrack.connections(addresses)
