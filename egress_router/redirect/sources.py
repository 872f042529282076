"""Which addresses a pod leaves with, by the routes that ``init`` has left in it."""

from __future__ import annotations

from egress_router.daemon.log import LOGGER
from egress_router.errors import EgressRouterError
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import MAIN_TABLE
from egress_router.redirect.network_state import PROTOCOL


def egress_sources() -> list[str]:
    """Return the addresses that the init container's default routes of this namespace leave with, [] without any."""
    try:
        with Rtnetlink() as kernel:
            routes = kernel.observe().routes
    except (EgressRouterError, OSError) as error:
        LOGGER.warning("the routes cannot be read: %s", error)
        return []
    ours = [r for r in routes if r.is_default and r.table == MAIN_TABLE and r.protocol == PROTOCOL]
    return [str(route.source) for route in ours if route.source is not None]
