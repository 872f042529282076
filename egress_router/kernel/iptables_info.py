"""A cheap look at legacy iptables: the kernel tells nobody when a table changes, so it has to be asked often.

See linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h, struct ipt_getinfo: how many rules a table
has, their size, and where the built-in chains start.
"""

from __future__ import annotations

import ctypes
import socket

from egress_router.model.addresses import Family

_TABLES = (b"filter", b"mangle", b"nat")
_GET_INFO = 64
_INFO_BYTES = 84
_LEVELS = {Family.IPV4: (socket.AF_INET, socket.IPPROTO_IP), Family.IPV6: (socket.AF_INET6, socket.IPPROTO_IPV6)}


class TableInfo:
    """Asks for what identifies the tables of ``families``, in microseconds. Needs NET_ADMIN and NET_RAW.

    A rule that takes the place of another one of its size is not seen.
    """

    def __init__(self, families: tuple[Family, ...]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._sockets = []
        for family in families:
            af, level = _LEVELS[family]
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            self._sockets.append((socket.socket(af, kind, socket.IPPROTO_RAW), level))

    def read(self) -> tuple[bytes, ...]:
        """Return what the kernel says of each table; the empty string where it says nothing."""
        found = []
        for own, level in self._sockets:
            for name in _TABLES:
                buffer = ctypes.create_string_buffer(name, _INFO_BYTES)
                size = ctypes.c_uint32(_INFO_BYTES)
                code = self._libc.getsockopt(own.fileno(), level, _GET_INFO, buffer, ctypes.byref(size))
                found.append(buffer.raw if code == 0 else b"")
        return tuple(found)

    def close(self) -> None:
        """Close the sockets."""
        for own, _ in self._sockets:
            own.close()
