"""What the outside interface says about this node where the Kubernetes API does not: its addresses and subnets."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface

from egress_router.egressip.source.groups import LocalNode
from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.kernel import Rtnetlink


def local_node(node: str, host_ips: Iterable[str], interface: str) -> LocalNode:
    """Return what is known of this node: the addresses that are named, else those of the interface.

    Raises PlatformError when the interface has none.
    """
    found = tuple(host_ips) or interface_addresses(interface)
    if not found:
        raise PlatformError(f"{interface} has no address that this node could be reached at; name one with --host-ip")
    return LocalNode(node, found)


def interface_addresses(interface: str) -> tuple[str, ...]:
    """Return the addresses of an interface with a subnet, IPv4 first: an egress IP stands there as a host address."""
    return tuple(str(own.ip) for own in sorted(_own(interface), key=lambda own: own.version))


def interface_subnets(interface: str) -> tuple[str, ...]:
    """Return the subnets of an interface."""
    return tuple(sorted({str(own.network) for own in _own(interface)}))


def _own(interface: str) -> list[IPv4Interface | IPv6Interface]:
    with Rtnetlink() as netlink:
        observed = netlink.observe()
    return [
        found.address
        for found in observed.addresses
        if found.interface == interface
        and found.global_scope
        and found.address.network.prefixlen < found.address.max_prefixlen
    ]
