"""The TCP sockets of one's own network namespace: how long connections have been silent, who listens, and the end of
connections that must not go on. sock_diag(7); only ending one takes a privilege (NET_ADMIN).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator
from errno import ENOENT, EOPNOTSUPP

from egress_router.config.values import Address
from egress_router.records import dataclass

#: linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_NLM_F_DUMP_REQUEST = 0x301
_NLM_F_ACKNOWLEDGED_REQUEST = 0x005
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO = 2
#: net/tcp_states.h, a bit each: all but LISTEN, TIME_WAIT and CLOSE are connected, or about to be.
_ESTABLISHED, _LISTEN = 1 << 1, 1 << 10
_FIN_WAIT2 = 5
_CONNECTED = 0b1_1011_0011_1110
_HEADER = struct.Struct("=IHHII")
#: inet_diag_req_v2: family, protocol, extensions, states; then inet_diag_sockid: ports, addresses, interface, cookie.
_REQUEST = struct.Struct("=BBBxI")
_SOCKET_ID = struct.Struct("!HH16s16s12x")
#: inet_diag_msg: family, state, timer and retransmissions come before the same inet_diag_sockid.
_ID_AT = 4
_MESSAGE_BYTES = 72
#: Its last field: the socket's inode, 0 when no process has it any more.
_INODE = struct.Struct("=I")
_INODE_AT = 68
_ATTRIBUTE = struct.Struct("=HH")
#: tcpi_last_data_sent, tcpi_last_ack_sent, tcpi_last_data_recv of struct tcp_info, in milliseconds.
_LAST = struct.Struct("=III")
_LAST_AT = 44
_BUFFER = 1 << 18
_TIMEOUT_SECONDS = 5.0
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Silence:
    """A connection by the address and port of its peer, and for how many seconds no data has passed on it."""

    peer: Address
    peer_port: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TcpConnection:
    """A TCP socket that is connected, or about to be, by its own address and port. ``key`` is what the kernel knows it
    by.
    """

    address: Address
    port: int
    key: bytes


def silences(port: int) -> list[Silence]:
    """Return the established connections to a local port. Raises OSError."""
    found = []
    for family in _FAMILIES:
        for message in _dump(family, _ESTABLISHED, port=port, extensions=1 << (_INET_DIAG_INFO - 1)):
            silence = _silence(family, message)
            if silence:
                found.append(silence)
    return found


def listening_ports() -> set[int]:
    """Return the local ports that somebody listens on. Raises OSError."""
    return {_SOCKET_ID.unpack_from(message, _ID_AT)[0] for family in _FAMILIES for message in _dump(family, _LISTEN)}


def connections() -> list[TcpConnection]:
    """Return what is connected, or about to be; without what its process has closed when all was sent and acknowledged,
    of which only the peer's end is waited for. Raises OSError.
    """
    found = []
    for family in _FAMILIES:
        for message in _dump(family, _CONNECTED):
            if message[1] == _FIN_WAIT2 and not _INODE.unpack_from(message, _INODE_AT)[0]:
                continue
            port, _, address, _ = _SOCKET_ID.unpack_from(message, _ID_AT)
            key = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _CONNECTED)
            key += message[_ID_AT : _ID_AT + _SOCKET_ID.size]
            found.append(TcpConnection(_address(family, address), port, key))
    return found


def end(chosen: Collection[TcpConnection]) -> int:
    """End connections: whoever has them is told so (ECONNABORTED), and the peer is sent a reset where there is a way to
    it. Return how many there were still. Raises OSError: EOPNOTSUPP where the kernel was built without
    CONFIG_INET_DIAG_DESTROY, EPERM without NET_ADMIN.
    """
    if not chosen:
        return 0
    ended = refused = 0
    with _kernel() as kernel:
        for item in chosen:
            header = _HEADER.pack(_HEADER.size + len(item.key), _SOCK_DESTROY, _NLM_F_ACKNOWLEDGED_REQUEST, 1, 0)
            kernel.sendto(header + item.key, (0, 0))
            number = -struct.unpack_from("=i", kernel.recv(_BUFFER), _HEADER.size)[0]
            if number == 0:
                ended += 1
            elif number == EOPNOTSUPP:
                # Kernels before 6.0 say so of one that has come to TIME_WAIT meanwhile, too: that has ended.
                refused += 1
            elif number != ENOENT:
                raise OSError(number, os.strerror(number))
    if refused == len(chosen):
        raise OSError(EOPNOTSUPP, os.strerror(EOPNOTSUPP))
    return ended


def _kernel() -> socket.socket:
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    kernel.settimeout(_TIMEOUT_SECONDS)
    return kernel


def _dump(family: int, states: int, *, port: int = 0, extensions: int = 0) -> Iterator[bytes]:
    """Yield an inet_diag_msg with its attributes for each TCP socket in one of ``states``, those of a local port alone
    unless it is 0.
    """
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, extensions, states)
    request += _SOCKET_ID.pack(port, 0, bytes(16), bytes(16))
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP_REQUEST, 1, 0)
    with _kernel() as kernel:
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
                yield data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3


def _silence(family: int, message: bytes) -> Silence | None:
    _, peer_port, _, peer = _SOCKET_ID.unpack_from(message, _ID_AT)
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
