"""The address as a lease that the kernel itself takes away.

A router that was killed leaves what it has put in place, and its pod's kernel goes on answering for the address. In a
pair another one takes it at once. So the address stands with a lifetime (ip-address(8), valid_lft) and is renewed as
long as the router is active: when nobody renews it the kernel removes it, and IPv4's routes out with it. IPv6's routes
stay when their address goes, so they have a lifetime of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from egress_router.config.values import Address, Family
from egress_router.daemon.log import LOGGER
from egress_router.errors import EgressRouterError
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.watch import Subject, parsed
from egress_router.redirect.network_state import NetworkState
from egress_router.redirect.withdraw import withdraw


class Lease:
    """Renews and ends the lease of a network's addresses, from the loop's own thread."""

    def __init__(self, sources: Collection[Address]) -> None:
        self._sources = frozenset(sources)
        self._kernel = Rtnetlink()
        self._problem = ""
        self._renewal: tuple[NetworkState, Callable[[], None]] | None = None

    def tells_more(self, notices: bytes) -> bool:
        """Whether a datagram of the kernel's notices tells of anything but renewals."""
        return not only_renewals(notices, self._kernel.port, self._sources)

    def renew(self, network: NetworkState) -> None:
        """Have the kernel keep addresses and routes for another LEASE_SECONDS. What is missing comes back, so it is
        only for who may have it. An error is logged once: the drift that it leaves is somebody else's to mend.
        """
        try:
            if self._renewal is None or self._renewal[0] is not network:
                link = self._kernel.link(network.egress)
                if link is None or not link.up:
                    return
                routes = network.egress_routes(Family.IPV6)
                self._renewal = network, self._kernel.renewal(link, network.addresses, routes)
            self._renewal[1]()
        except EgressRouterError as error:
            # The interface may be another one by now.
            self._renewal = None
            if str(error) != self._problem:
                LOGGER.warning("the lease of the address cannot be renewed: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""

    def end(self, network: NetworkState) -> None:
        """Take the addresses away now, and IPv6's routes before them; nothing leaves with them any more."""
        self._renewal = None
        try:
            link = self._kernel.link(network.egress)
            if link is not None:
                withdraw(self._kernel, network, link)
        except EgressRouterError as error:
            LOGGER.error("the address cannot be given up at once, and ends with its lease: %s", error)

    def close(self) -> None:
        """Close the socket."""
        self._kernel.close()


def only_renewals(notices: bytes, port: int, sources: Collection[Address]) -> bool:
    """Whether a datagram tells of nothing but what the socket of that port does, or that addresses of ``sources`` are
    there: notices of IPv6 addresses bear nobody's port.
    """
    return all(
        notice.port == port or (notice.subject is Subject.ADDRESS and not notice.removed and notice.address in sources)
        for notice in parsed(notices)
    )
