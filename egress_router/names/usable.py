"""Which addresses of an answer may be connected to."""

from __future__ import annotations

import socket

from egress_router.config.fields import not_a_host
from egress_router.model.addresses import Address


def unusable(address: Address) -> str | None:
    """Say why an address in an answer must not be connected to; None when it may be.

    Whoever controls a name must not reach the pod's own services or the cloud's metadata service through it, or make
    the router connect to itself.
    """
    kind = not_a_host(address)
    if kind:
        return kind
    if address.is_link_local:
        return "a link-local address"
    if address.version == 6 and address.ipv4_mapped is not None:
        return "an IPv4-mapped address"
    # The kernel lets a socket be bound to the pod's own addresses alone.
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return None
    return "an address of this pod"
