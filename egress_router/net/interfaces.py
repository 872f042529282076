"""The kernel's numbers of network interfaces. See netdevice(7)."""

from __future__ import annotations

import socket


def interface_index(name: str) -> int:
    """Return the number of an interface of this network namespace; 0 where there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
