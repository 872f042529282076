"""Which addresses a pod leaves with, by the routes that ``init`` has left in it."""

from __future__ import annotations

from egress_router.config.values import Network
from egress_router.daemon.log import LOGGER
from egress_router.dns.usable import networks_of_the_cluster
from egress_router.errors import EgressRouterError
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import MAIN_TABLE, Route
from egress_router.redirect.network_state import PROTOCOL


def egress_sources() -> list[str]:
    """Return the addresses that the init container's default routes of this namespace leave with, [] without any."""
    ours = [r for r in _routes() if r.is_default and r.table == MAIN_TABLE and r.protocol == PROTOCOL]
    return [str(route.source) for route in ours if route.source is not None]


def cluster_networks() -> tuple[Network, ...]:
    """Return what the routes of this namespace send into the cluster, () before the init container has set them up."""
    return networks_of_the_cluster(_routes(), PROTOCOL)


def _routes() -> tuple[Route, ...]:
    try:
        with Rtnetlink() as kernel:
            return kernel.observe().routes
    except (EgressRouterError, OSError) as error:
        LOGGER.warning("the routes cannot be read: %s", error)
        return ()
