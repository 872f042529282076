"""Which families of IP this machine has at all."""

from __future__ import annotations

import errno
import socket

from egress_router.config.values import Family
from egress_router.errors import PlatformError


def has_sockets(family: Family) -> bool:
    """Return whether a socket of ``family`` can be opened. There are none of IPv6 on a machine that was booted with
    ``ipv6.disable=1``, and where a seccomp filter says so. Raises PlatformError when it cannot be told.
    """
    try:
        socket.socket(socket.AF_INET if family is Family.IPV4 else socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise PlatformError(f"cannot open a socket of {family}: {error.strerror}") from error
    return True
