"""Sockets that tell when something changed: links, addresses, routes, policy rules, forwarding, nftables.

See rtnetlink(7), linux/rtnetlink.h (RTNLGRP_*), linux/netfilter/nfnetlink.h (NFNLGRP_*).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from egress_router.net.netlink import NETLINK_NETFILTER
from egress_router.net.oserror import from_os, translating

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_DROP_MEMBERSHIP = 270, 1, 2
#: link; IPv4 address, route, rule; IPv6 address, route, rule; IPv4 and IPv6 netconf (forwarding switched on or off)
_ROUTE_GROUPS = (1, 5, 7, 8, 9, 11, 19, 24, 25)
_NFTABLES_GROUPS = (7,)
_RECEIVE_BYTES = 1 << 16


class Events:
    """A netlink socket that hears multicast groups. What the events say is not read: one has to look anyway. Datagrams
    that ``heeds`` says no to are none: they tell what this process does all the time.

    Raises CapabilityError, TryAgainError or PlatformError where the socket fails.
    """

    def __init__(self, protocol: int, groups: tuple[int, ...]) -> None:
        with translating("open a socket for the kernel's notices"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.setblocking(False)
            self._socket.bind((0, 0))
        self._groups = groups
        self.heeds: Callable[[bytes], bool] | None = None
        self.listen()

    def listen(self) -> None:
        """Hear events from now on."""
        with translating("hear the kernel's notices"):
            for group in self._groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def pause(self) -> None:
        """Hear nothing: the kernel need not tell what we do ourselves, ten thousand times."""
        with translating("stop hearing the kernel's notices"):
            for group in self._groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_DROP_MEMBERSHIP, group)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take what has come; return whether there was anything (events that the kernel had to drop count)."""
        heard = False
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return heard
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise from_os(error, "read the kernel's notices", "NET_ADMIN") from error
                heard = True
            else:
                heard = heard or self.heeds is None or self.heeds(data)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def route_events() -> Events:
    """Return a socket that hears changes of links, addresses, routes, policy rules and forwarding."""
    return Events(socket.NETLINK_ROUTE, _ROUTE_GROUPS)


def nftables_events() -> Events:
    """Return a socket that hears changes of nftables."""
    return Events(NETLINK_NETFILTER, _NFTABLES_GROUPS)
