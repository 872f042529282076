"""Notices of changes of links, addresses, routes, policy rules, neighbours and parameters. See rtnetlink(7),
linux/rtnetlink.h (RTNLGRP_*), linux/netconf.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass
from enum import Enum

from egress_router.config.values import Address
from egress_router.net.netlink import attributes
from egress_router.net.notices import Events
from egress_router.net.oserror import from_os

#: link; neighbour; IPv4 address, route, rule; IPv6 address, route, rule; IPv4 and IPv6 netconf
_GROUPS = (1, 3, 5, 7, 8, 9, 11, 19, 24, 25)
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 16
_SO_RCVBUFFORCE = 33
#: What a burst takes: a table of ten thousand routes that is flushed.
_BUFFER = 4 << 20


class Subject(Enum):
    """What a notice is about."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    RULE = "rule"
    NEIGHBOUR = "neighbour"
    PARAMETER = "parameter"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something was added, changed or ``removed``. ``index`` is the link's (0: none), ``name`` that of a link,
    ``protocol`` that of a route or rule, ``address`` one of an interface; ``port`` is the netlink port of who did it
    (0: the kernel, or not known).
    """

    subject: Subject
    removed: bool
    index: int = 0
    name: str = ""
    protocol: int = 0
    address: Address | None = None
    port: int = 0


#: By message type: what it is about, whether it is gone, how long the head is, and the attribute that matters.
_KINDS = {
    16: (Subject.LINK, False, 16),
    17: (Subject.LINK, True, 16),
    20: (Subject.ADDRESS, False, 8),
    21: (Subject.ADDRESS, True, 8),
    24: (Subject.ROUTE, False, 12),
    25: (Subject.ROUTE, True, 12),
    28: (Subject.NEIGHBOUR, False, 12),
    29: (Subject.NEIGHBOUR, True, 12),
    32: (Subject.RULE, False, 12),
    33: (Subject.RULE, True, 12),
    80: (Subject.PARAMETER, False, 4),
    81: (Subject.PARAMETER, True, 4),
}
_IFLA_IFNAME, _IFA_ADDRESS, _IFA_LOCAL, _RTA_OIF, _FRA_PROTOCOL, _NETCONFA_IFINDEX = 3, 1, 2, 4, 21, 1
_ROUTE_PROTOCOL_AT = 5


class RouteWatch(Events):
    """A socket that is readable when something has changed in the network namespace that it was made in."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE, _GROUPS)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except OSError:
            # Without NET_ADMIN as much as net.core.rmem_max allows; what is lost is told.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def notices(self) -> list[Notice] | None:
        """Take what has come; None when some of it was lost: then anything may have changed. Raises
        EgressRouterError.
        """
        found: list[Notice] = []
        lost = False
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return None if lost else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise from_os(error, "read the kernel's notices", "NET_ADMIN") from error
                lost = True
                continue
            found += parsed(data)


def parsed(data: bytes) -> list[Notice]:
    """Return the notices in a datagram from the kernel; messages that we do not know are left out."""
    found = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, type_, _, _, port = _HEADER.unpack_from(data, at)
        if type_ in _KINDS:
            found.append(_notice(data, at + _HEADER.size, at + length, type_, port))
        at += max(_HEADER.size, (length + 3) & ~3)
    return found


def _notice(data: bytes, at: int, end: int, type_: int, port: int) -> Notice:
    subject, removed, head = _KINDS[type_]
    index = protocol = 0
    name = ""
    address: Address | None = None
    if subject in (Subject.LINK, Subject.ADDRESS, Subject.NEIGHBOUR):
        # ifi_index, ifa_index and ndm_ifindex stand at the same place.
        (index,) = struct.unpack_from("=i", data, at + 4)
    elif subject is Subject.ROUTE:
        protocol = data[at + _ROUTE_PROTOCOL_AT]
    for kind, start, stop in attributes(data, at + head, end):
        if subject is Subject.LINK and kind == _IFLA_IFNAME:
            name = data[start : stop - 1].decode(errors="replace")
        elif subject is Subject.ADDRESS and (kind == _IFA_LOCAL or (kind == _IFA_ADDRESS and address is None)):
            address = ipaddress.ip_address(data[start:stop])
        elif subject is Subject.RULE and kind == _FRA_PROTOCOL:
            protocol = data[start]
        elif (subject is Subject.ROUTE and kind == _RTA_OIF) or (
            subject is Subject.PARAMETER and kind == _NETCONFA_IFINDEX
        ):
            (index,) = struct.unpack_from("=i", data, start)
    return Notice(subject, removed, index, name, protocol, address, port)
