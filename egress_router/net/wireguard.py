"""WireGuard devices of this network namespace: their keys and peers. See wg(8), linux/wireguard.h, genetlink.h."""

from __future__ import annotations

import socket
import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Collection
from ipaddress import ip_address, ip_network

from egress_router.config.values import Network
from egress_router.errors import PlatformError
from egress_router.net.closing import Closing
from egress_router.net.netlink import (
    HEAD_BYTES,
    NLA_F_NESTED,
    Netlink,
    NetlinkError,
    attribute,
    attribute_values,
    attributes,
)
from egress_router.records import dataclass

#: linux/netlink.h, linux/genetlink.h
_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 0x10, 3
_CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 1, 2
#: Command, version.
_HEAD = struct.Struct("=BBxx")
_U16, _U32 = struct.Struct("=H"), struct.Struct("=I")
_FAMILY = "wireguard"
_DEVICE_NAME, _DEVICE_PRIVATE_KEY, _DEVICE_PUBLIC_KEY, _DEVICE_PORT, _DEVICE_PEERS = 2, 3, 4, 6, 8
_PEER_KEY, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_ALLOWED = 1, 3, 4, 9
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_LENGTH = 1, 2, 3
#: struct sockaddr_in and sockaddr_in6: family, port, (flow,) address, and what is zero.
_ENDPOINT4, _ENDPOINT6 = struct.Struct("=H2s4s8x"), struct.Struct("=H2s4x16s4x")
_GET_DEVICE, _SET_DEVICE = 0, 1
_REMOVE_ME, _REPLACE_ALLOWED_IPS = 0x1, 0x2
_VERSION = 1
_KEY_BYTES = 32
MISSING = (
    "this kernel has no WireGuard (CONFIG_WIREGUARD, module wireguard), which an encrypted tunnel needs; kernels of "
    "distributions have it, from Linux 5.6 on"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is known by a key: reached at ``endpoint``, and believed to send from the ``inside`` networks."""

    key: str
    endpoint: tuple[str, int] | None
    inside: frozenset[Network]


@dataclass(frozen=True, slots=True)
class Device:
    """``key`` is the public one, empty as long as there is none."""

    key: str
    port: int
    peers: frozenset[Peer]


def is_key(text: str) -> bool:
    """Return whether a text is a key as wg(8) writes it."""
    try:
        return len(b64decode(text, validate=True)) == _KEY_BYTES and b64encode(b64decode(text)).decode() == text
    except (Base64Error, ValueError):
        return False


class WireGuard(Closing):
    """A generic netlink socket to the kernel's WireGuard. Every method raises NetlinkError, CapabilityError or
    TryAgainError.
    """

    def __init__(self) -> None:
        """Raises PlatformError where the kernel has no WireGuard, or no device of it yet and the module is not
        loaded: make one first.
        """
        self._netlink = Netlink(_NETLINK_GENERIC)
        try:
            self._family = self._family_number()
        except NetlinkError as error:
            self._netlink.close()
            raise PlatformError(MISSING) from error

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def _family_number(self) -> int:
        request = _HEAD.pack(_CTRL_CMD_GETFAMILY, 1) + attribute(_CTRL_FAMILY_NAME, _FAMILY.encode() + b"\0")
        found = self._netlink.get(request, _GENL_ID_CTRL, "ask for WireGuard")
        return int(_U16.unpack(_values(found)[_CTRL_FAMILY_ID])[0])

    def device(self, name: str) -> Device:
        """Return a device with its peers."""
        key, port = b"", 0
        peers: set[Peer] = set()
        for message in self._netlink.dump(_message(_GET_DEVICE, name), self._family, f"read {name}"):
            found = _values(message)
            key = found.get(_DEVICE_PUBLIC_KEY, key)
            port = _U16.unpack(found[_DEVICE_PORT])[0] if _DEVICE_PORT in found else port
            peers.update(map(_peer, _entries(found.get(_DEVICE_PEERS, b""))))
        return Device(b64encode(key).decode() if any(key) else "", port, frozenset(peers))

    def configure(self, name: str, private_key: str, port: int) -> None:
        """Give a device its key and its UDP port. The same key again disturbs nothing."""
        own = attribute(_DEVICE_PRIVATE_KEY, b64decode(private_key)) + attribute(_DEVICE_PORT, _U16.pack(port))
        self._set(name, own, f"configure {name}")

    def set_peer(self, name: str, key: str, endpoint: tuple[str, int], inside: Collection[Network]) -> None:
        """Add a peer, or change it. What another peer had of ``inside`` is taken from that."""
        peer = (
            attribute(_PEER_KEY, b64decode(key))
            + attribute(_PEER_ENDPOINT, _endpoint_bytes(endpoint))
            + attribute(_PEER_FLAGS, _U32.pack(_REPLACE_ALLOWED_IPS))
            + _nested(_PEER_ALLOWED, b"".join(_nested(0, _allowed_bytes(network)) for network in inside))
        )
        self._set(name, _nested(_DEVICE_PEERS, _nested(0, peer)), f"add a peer to {name}")

    def remove_peer(self, name: str, key: str) -> None:
        """Take a peer away; one that is gone is fine."""
        peer = attribute(_PEER_KEY, b64decode(key)) + attribute(_PEER_FLAGS, _U32.pack(_REMOVE_ME))
        self._set(name, _nested(_DEVICE_PEERS, _nested(0, peer)), f"remove a peer of {name}")

    def _set(self, name: str, what: bytes, doing: str) -> None:
        self._netlink.change(_message(_SET_DEVICE, name) + what, self._family, 0, doing)


def _message(command: int, name: str) -> bytes:
    return _HEAD.pack(command, _VERSION) + attribute(_DEVICE_NAME, name.encode() + b"\0")


def _nested(type_: int, inside: bytes) -> bytes:
    return attribute(type_ | NLA_F_NESTED, inside)


def _values(message: bytes) -> dict[int, bytes]:
    return attribute_values(message, HEAD_BYTES + _HEAD.size)


def _entries(data: bytes) -> list[dict[int, bytes]]:
    """Return the attributes of each entry of a list."""
    return [attribute_values(data, start, stop) for _, start, stop in attributes(data, 0, len(data))]


def _endpoint_bytes(endpoint: tuple[str, int]) -> bytes:
    address, port = ip_address(endpoint[0]), endpoint[1].to_bytes(2)
    if address.version == 6:
        return _ENDPOINT6.pack(socket.AF_INET6, port, address.packed)
    return _ENDPOINT4.pack(socket.AF_INET, port, address.packed)


def _allowed_bytes(network: Network) -> bytes:
    family = socket.AF_INET6 if network.version == 6 else socket.AF_INET
    return (
        attribute(_ALLOWED_FAMILY, _U16.pack(family))
        + attribute(_ALLOWED_ADDRESS, network.network_address.packed)
        + attribute(_ALLOWED_LENGTH, bytes([network.prefixlen]))
    )


def _peer(found: dict[int, bytes]) -> Peer:
    endpoint: tuple[str, int] | None = None
    data = found.get(_PEER_ENDPOINT, b"")
    if len(data) in (_ENDPOINT4.size, _ENDPOINT6.size):
        _, port, address = (_ENDPOINT4 if len(data) == _ENDPOINT4.size else _ENDPOINT6).unpack(data)
        endpoint = str(ip_address(address)), int.from_bytes(port)
    allowed = _entries(found.get(_PEER_ALLOWED, b""))
    return Peer(
        b64encode(found[_PEER_KEY]).decode(),
        endpoint,
        frozenset(ip_network((entry[_ALLOWED_ADDRESS], entry[_ALLOWED_LENGTH][0])) for entry in allowed),
    )
