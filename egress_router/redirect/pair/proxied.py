"""The connections of a proxy that runs beside a router of a pair, in the same network namespace.

They are the proxy's own: the kernel translates nothing, so that connection tracking has nothing to end. When the role
goes, both halves of each must go with it: the one that leaves with EGRESS_SOURCE, and the one of the client, who would
wait for an answer or ask again here, at a standby.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from egress_router.config.values import Address
from egress_router.daemon.log import LOGGER
from egress_router.net.socket_diag import connections, end, listening_ports


def outward(sources: Collection[Address]) -> int:
    """Return how many connections have one of ``sources``; 0, and a line in the log, where the kernel does not tell."""
    try:
        return sum(item.address in sources for item in connections())
    except OSError as error:
        LOGGER.error("the proxy's connections cannot be counted: %s", error.strerror)
        return 0


def end_proxied(sources: Collection[Address], spared_port: int | None) -> int:
    """End the connections that have one of ``sources``, and those of clients to whatever listens in the pod but to
    ``spared_port``, the router's own; return how many. A kernel that cannot is told in the log: the proxy and its
    clients find out by their own time-outs then.
    """
    try:
        ports = listening_ports() - {spared_port}
        chosen = [
            item
            for item in connections()
            if item.address in sources or (item.port in ports and not item.address.is_loopback)
        ]
        # Clients first: a proxy that has lost the other half ends theirs as if all had been said.
        ended = end(sorted(chosen, key=lambda item: item.address in sources))
    except OSError as error:
        why = "it was built without CONFIG_INET_DIAG_DESTROY" if error.errno == errno.EOPNOTSUPP else error.strerror
        LOGGER.error("the kernel does not end the proxy's connections, which wait for their time-outs: %s", why)
        return 0
    if ended:
        LOGGER.info("%d connections of the proxy ended", ended)
    return ended
