"""What the outside interface says about this node where the Kubernetes API does not: its addresses and subnets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Interface, IPv6Interface

from egress_router.egressip.node.status import canonical_ip
from egress_router.egressip.source.groups import LocalNode
from egress_router.errors import PlatformError, TryAgainError
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import Observed


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


def require_host_ip(host_ip: str, wanted: str, observed: Callable[[], Observed]) -> None:
    """Raise TryAgainError when the machine has the hostIP that its object has by now, another than ``host_ip``: the
    tunnel and the probes stand on that, and an agent that starts again takes everything over.
    """
    fresh = canonical_ip(wanted)
    if fresh != host_ip and fresh in {str(address.address.ip) for address in observed().addresses}:
        raise TryAgainError(f"hostIP is {wanted} now, no longer {host_ip}; start again")


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
