"""WireGuard devices of this network namespace: their keys and peers. See wg(8), linux/wireguard.h.

The messages are pyroute2's. They are imported when a device is first asked about: few do, and it takes a quarter of a
second.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Collection, Iterable
from importlib import import_module
from ipaddress import ip_network
from typing import Any

from egress_router.config.values import Network
from egress_router.errors import PlatformError
from egress_router.net.closing import Closing
from egress_router.net.netlink import Netlink, NetlinkError
from egress_router.records import dataclass

#: linux/netlink.h, linux/genetlink.h
_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 0x10, 3
_FAMILY = "wireguard"
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
        # The package first, and whole: it imports this part of itself in its own order.
        import_module("pyroute2")
        self._messages = import_module("pyroute2.netlink.generic.wireguard")
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
        request = import_module("pyroute2.netlink").ctrlmsg()
        request["cmd"], request["version"] = _CTRL_CMD_GETFAMILY, 1
        request["attrs"] = [("CTRL_ATTR_FAMILY_NAME", _FAMILY)]
        found = self._netlink.get(request, _GENL_ID_CTRL, "ask for WireGuard")
        return int(found.get_attr("CTRL_ATTR_FAMILY_ID"))

    def _message(self, command: int, name: str, attributes: Iterable[tuple[str, Any]] = ()) -> Any:
        request = self._messages.wgmsg()
        request["cmd"], request["version"] = command, _VERSION
        request["attrs"] = [("WGDEVICE_A_IFNAME", name), *attributes]
        return request

    def device(self, name: str) -> Device:
        """Return a device with its peers."""
        key, port = "", 0
        peers: set[Peer] = set()
        for found in self._netlink.dump(self._message(_GET_DEVICE, name), self._family, f"read {name}"):
            key = _text(found.get_attr("WGDEVICE_A_PUBLIC_KEY")) or key
            port = found.get_attr("WGDEVICE_A_LISTEN_PORT") or port
            peers.update(map(_peer, found.get_attr("WGDEVICE_A_PEERS") or ()))
        return Device(key if any(b64decode(key)) else "", port, frozenset(peers))

    def configure(self, name: str, private_key: str, port: int) -> None:
        """Give a device its key and its UDP port. The same key again disturbs nothing."""
        attributes = [("WGDEVICE_A_PRIVATE_KEY", private_key), ("WGDEVICE_A_LISTEN_PORT", port)]
        self._set(name, attributes, f"configure {name}")

    def set_peer(self, name: str, key: str, endpoint: tuple[str, int], inside: Collection[Network]) -> None:
        """Add a peer, or change it. What another peer had of ``inside`` is taken from that."""
        entries = [
            {
                "attrs": [
                    ("WGALLOWEDIP_A_FAMILY", 10 if network.version == 6 else 2),
                    ("WGALLOWEDIP_A_IPADDR", network.network_address.packed),
                    ("WGALLOWEDIP_A_CIDR_MASK", network.prefixlen),
                ]
            }
            for network in inside
        ]
        peer = [
            ("WGPEER_A_PUBLIC_KEY", key),
            ("WGPEER_A_ENDPOINT", {"addr": endpoint[0], "port": endpoint[1]}),
            ("WGPEER_A_FLAGS", _REPLACE_ALLOWED_IPS),
            ("WGPEER_A_ALLOWEDIPS", entries),
        ]
        self._set(name, [("WGDEVICE_A_PEERS", [{"attrs": peer}])], f"add a peer to {name}")

    def remove_peer(self, name: str, key: str) -> None:
        """Take a peer away; one that is gone is fine."""
        peer = [("WGPEER_A_PUBLIC_KEY", key), ("WGPEER_A_FLAGS", _REMOVE_ME)]
        self._set(name, [("WGDEVICE_A_PEERS", [{"attrs": peer}])], f"remove a peer of {name}")

    def _set(self, name: str, attributes: Iterable[tuple[str, Any]], doing: str) -> None:
        self._netlink.change(self._message(_SET_DEVICE, name, attributes), self._family, 0, doing)


def _peer(message: Any) -> Peer:
    endpoint = message.get_attr("WGPEER_A_ENDPOINT")
    allowed = message.get_attr("WGPEER_A_ALLOWEDIPS") or ()
    return Peer(
        _text(message.get_attr("WGPEER_A_PUBLIC_KEY")),
        (endpoint["addr"], endpoint["port"]) if endpoint else None,
        frozenset(ip_network(entry["addr"]) for entry in allowed),
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("value", b"")
    return value.decode() if isinstance(value, bytes) else str(value or "")
