"""Which addresses of an answer may be connected to."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

from egress_router.config.embedded_ipv4 import embedded_ipv4, not_a_server
from egress_router.config.values import Address


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
