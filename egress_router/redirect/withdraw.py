"""What a router of a pair holds, taken away again."""

from __future__ import annotations

from egress_router.config.values import Family
from egress_router.net.rtnetlink.kernel import RouteNetlink
from egress_router.net.rtnetlink.values import Link
from egress_router.redirect.network_state import NetworkState


def withdraw(kernel: RouteNetlink, network: NetworkState, link: Link) -> None:
    """Take away the addresses that a router holds, and IPv6's routes before them; IPv4's go with their address."""
    for route in network.egress_routes(Family.IPV6):
        kernel.remove_route(route, link.index)
    for item in network.addresses:
        kernel.remove_address(link, item)
