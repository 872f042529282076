"""Which addresses of an answer may be connected to, as the pod's addresses and routes have it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address

from egress_router.config.embedded_ipv4 import embedded_ipv4, not_a_server
from egress_router.config.values import Address, Family, Network
from egress_router.net.rtnetlink.values import MAIN_TABLE, Route
from egress_router.records import dataclass


def unusable(address: Address) -> str | None:
    """Say why an address in an answer must not be connected to; None when it may be.

    Whoever controls a name must not reach the pod's own services or the cloud's metadata service through it, or make
    the router connect to itself; in no spelling of such an address.
    """
    if what := not_a_server(address):
        return what
    if address.version == 6 and address.ipv4_mapped is not None:
        return "an IPv4-mapped address"
    own = next((one for one in (address, *embedded_ipv4(address)) if is_own(one)), None)
    if own is None:
        return None
    return "an address of this pod" if own == address else f"an address of this pod ({own} inside)"


def is_own(address: Address) -> bool:
    """Return whether the pod has an address: the kernel lets a socket be bound to those alone."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Usable:
    """``unusable`` for a pod whose routes lead into the cluster for some networks: those are closed to answers too."""

    cluster: tuple[Network, ...] = ()

    def __call__(self, address: Address) -> str | None:
        """Say why an address in an answer must not be connected to; None when it may be."""
        if what := unusable(address):
            return what
        for one in (address, *embedded_ipv4(address)):
            if any(one.version == network.version and one in network for network in self.cluster):
                return f"in the cluster's network{'' if one == address else f' ({one} inside)'}"
        return None


def networks_of_the_cluster(routes: Iterable[Route], protocol: int) -> tuple[Network, ...]:
    """Return what a pod's routes send by other interfaces than those of the init container's default routes, which have
    ``protocol``: the cluster's networks. () where the init container has left no default route.
    """
    ours = [route for route in routes if route.table == MAIN_TABLE and route.type == "unicast"]
    egress = {route.interface for route in ours if route.is_default and route.protocol == protocol}
    return tuple(
        dict.fromkeys(
            route.destination
            for route in ours
            if egress and route.interface not in egress and not route.is_default and not _link_local(route.destination)
        )
    )


def _link_local(network: Network) -> bool:
    return network.network_address.is_link_local or network.network_address.is_multicast


#: Addresses of documentation prefixes: whether there is a route tells whether the family leads outside.
_OUTSIDE = {Family.IPV4: (socket.AF_INET, "192.0.2.1"), Family.IPV6: (socket.AF_INET6, "2001:db8::1")}


def families_with_a_route() -> list[Family]:
    """Return the families with a route to the outside, or IPv4 when there is none at all. Nothing is sent."""
    found = []
    for family, (number, outside) in _OUTSIDE.items():
        try:
            with socket.socket(number, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
        except OSError:
            continue
        found.append(family)
    return found or [Family.IPV4]
