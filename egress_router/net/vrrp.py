"""Hear the adverts of VRRP routers on one interface. VRRP version 3: RFC 9568 (5798 before), over IPv4."""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address

from egress_router.net.arp_nd import _PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST, _SOL_PACKET
from egress_router.net.oserror import translating
from egress_router.records import dataclass

_ETH_P_IP = 0x0800
_SO_ATTACH_FILTER = 26
_VRRP = 112
#: Where IPv4 multicast to 224.0.0.18 goes (RFC 1112, 6.4).
GROUP_MAC = bytes.fromhex("01005e000012")
#: linux/filter.h: (code, jump if true, jump if false, operand). IPv4 with protocol 112, on an Ethernet frame.
_FILTER = (
    (0x28, 0, 0, 12),
    (0x15, 0, 3, _ETH_P_IP),
    (0x30, 0, 0, 23),
    (0x15, 0, 1, _VRRP),
    (6, 0, 0, 0xFFFF),
    (6, 0, 0, 0),
)
#: Version 3, advertisement.
_ADVERT = 0x31


@dataclass(frozen=True, slots=True)
class Advert:
    """A router of MAC ``mac`` says from ``source`` that it is the active one of virtual router ``number``; with
    ``priority`` 0 that it stops being so. ``addresses`` are the virtual router's.
    """

    mac: str
    source: IPv4Address
    number: int
    priority: int
    addresses: tuple[IPv4Address, ...]


class AdvertWatch:
    """Hears what others send on an interface of that index and MAC, without ever waiting. Raises TryAgainError when the
    interface is not there, CapabilityError without NET_RAW.
    """

    def __init__(self, interface: str, index: int, mac: str) -> None:
        self._mac = mac
        program = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        self._buffer = ctypes.create_string_buffer(program)
        head = struct.pack("@HP", len(_FILTER), ctypes.addressof(self._buffer))
        membership = struct.pack("=iHH8s", index, _PACKET_MR_MULTICAST, 6, GROUP_MAC)
        with translating(f"hear VRRP on {interface}", "NET_RAW"):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            try:
                self._socket.setblocking(False)
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
                self._socket.bind((interface, _ETH_P_IP))
                self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
            except OSError:
                self._socket.close()
                raise

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def heard(self) -> list[Advert]:
        """Return the adverts of others since the last time."""
        found = map(parsed_advert, self.frames())
        return [advert for advert in found if advert is not None and advert.mac != self._mac]

    def frames(self) -> list[bytes]:
        """Return the Ethernet frames since the last time, adverts or not."""
        found = []
        for _ in range(1000):
            try:
                found.append(self._socket.recv(2048))
            except OSError:
                # Nothing more, or the interface went down; the link's own events tell that.
                break
        return found

    def send(self, frame: bytes) -> None:
        """Send an Ethernet frame; one that the interface does not take is lost, as others are."""
        with suppress(OSError):
            self._socket.send(frame)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def parsed_advert(frame: bytes) -> Advert | None:
    """Return the advert in an Ethernet frame; None for anything else, and for one that a router has passed on."""
    if len(frame) < 14 + 20 or struct.unpack_from("!H", frame, 12)[0] != _ETH_P_IP:
        return None
    length = (frame[14] & 0x0F) * 4
    body = frame[14 + length :]
    if frame[14] >> 4 != 4 or length < 20 or frame[14 + 9] != _VRRP or frame[14 + 8] != 255 or len(body) < 8:
        return None
    kind, number, priority, count = body[:4]
    if kind != _ADVERT or len(body) < 8 + 4 * count:
        return None
    addresses = tuple(IPv4Address(body[8 + 4 * at : 12 + 4 * at]) for at in range(count))
    return Advert(frame[6:12].hex(":"), IPv4Address(frame[26:30]), number, priority, addresses)
