"""By which names pages for people are served.

A stranger's page in a browser may give its own name the address of a router, and then read what its visitor can reach
there (DNS rebinding). The name is in the Host of the request (RFC 9110 7.2).
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import ip_address

#: Names below these are nobody's in the public DNS: of this machine (RFC 6761), and of a cluster's Services.
_OURS = (".localhost", ".svc", ".cluster.local")


def hosts_of(request: bytes) -> list[str]:
    """Return what a request names as its host, lower case and without ports; nothing when it is of no browser."""
    found = []
    for line in request.lower().split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip() == b"host":
            text = value.strip().decode("latin-1")
            host, colon, port = text.rpartition(":")
            found.append((host if colon and port.isdecimal() else text).removesuffix(".").strip("[]"))
    return found


def is_ours(host: str, allowed: Collection[str]) -> bool:
    """Return whether a page is served by this name: an address, a name without a dot, one that is nobody's in the
    public DNS, this machine's own, or an allowed one. Names have lower case and no dot at their end.
    """
    if "." not in host or host.endswith(_OURS) or host in allowed or host == socket.gethostname().lower():
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
