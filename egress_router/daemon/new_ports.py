"""What a reload adds to the ports of a pod: more than the pod alone has to know of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from egress_router.daemon.log import LOGGER
from egress_router.errors import few

#: More are counted.
SHOWN = 10


def tell_new_ports(before: Collection[str], now: Iterable[str]) -> None:
    """Log which of the ports ``now`` (8080/tcp, 100-200/udp) were not there before."""
    fresh = [port for port in dict.fromkeys(now) if port not in before]
    if fresh:
        text = "new ports: %s. A Service and a NetworkPolicy name theirs: `manifests` writes them anew"
        LOGGER.info(text, few(fresh, SHOWN))
