"""How long TCP connections have been silent: sock_diag(7), which takes no privilege in one's own network namespace."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from egress_router.config.values import Address

#: linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_DUMP_REQUEST = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO = 2
_ESTABLISHED = 1 << 1
_HEADER = struct.Struct("=IHHII")
#: inet_diag_req_v2: family, protocol, extensions, states; then inet_diag_sockid: ports, addresses, interface, cookie.
_REQUEST = struct.Struct("=BBBxI")
_SOCKET_ID = struct.Struct("!HH16s16s12x")
_MESSAGE_BYTES = 72
_ATTRIBUTE = struct.Struct("=HH")
#: tcpi_last_data_sent, tcpi_last_ack_sent, tcpi_last_data_recv of struct tcp_info, in milliseconds.
_LAST = struct.Struct("=III")
_LAST_AT = 44
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class Silence:
    """A connection by the address and port of its peer, and for how many seconds no data has passed on it."""

    peer: Address
    peer_port: int
    seconds: float


def silences(port: int) -> list[Silence]:
    """Return the established connections to a local port. Raises OSError."""
    return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _dump(family, port)]


def _dump(family: int, port: int) -> Iterator[Silence]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _ESTABLISHED)
    request += _SOCKET_ID.pack(port, 0, bytes(16), bytes(16))
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(5)
        kernel.sendto(header + request, (0, 0))
        while True:
            data = kernel.recv(_BUFFER)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE or length < _HEADER.size:
                    return
                if kind == _NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", data, at + _HEADER.size)
                    raise OSError(-number, "sock_diag refused")
                found = _silence(family, data[at + _HEADER.size : at + length])
                if found:
                    yield found
                at += (length + 3) & ~3


def _silence(family: int, message: bytes) -> Silence | None:
    _, peer_port, _, peer = _SOCKET_ID.unpack_from(message, 4)
    at = _MESSAGE_BYTES
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            return None
        if kind == _INET_DIAG_INFO and length >= _ATTRIBUTE.size + _LAST_AT + _LAST.size:
            sent, _, received = _LAST.unpack_from(message, at + _ATTRIBUTE.size + _LAST_AT)
            return Silence(_address(family, peer), peer_port, min(sent, received) / 1000)
        at += (length + 3) & ~3
    return None


def _address(family: int, data: bytes) -> Address:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(data[:4])
    address = ipaddress.IPv6Address(data)
    return address.ipv4_mapped or address
