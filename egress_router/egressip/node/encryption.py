"""The encrypted tunnel: a WireGuard device that the packets of the tunnel go through. See wg(8).

Each node makes a key of its own, and agents tell each other the public ones, in messages that are signed. Who is
reached where, and may send from which address inside, follows from the addresses of the nodes, so nothing else has to
be agreed upon.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Collection
from ipaddress import IPv6Interface, ip_network
from pathlib import Path

from egress_router.config.files import read_regular
from egress_router.egressip.node.state import ENCRYPTED
from egress_router.egressip.node.tunnel import INSIDE, encrypted_mtu, inside_address
from egress_router.errors import PlatformError, TryAgainError
from egress_router.net.rtnetlink.kernel import RouteNetlink
from egress_router.net.rtnetlink.values import Link, LinkAddress
from egress_router.net.wireguard import Peer, WireGuard, is_key

#: Stands in the place of the control socket's suffix.
KEY_SUFFIX = ".wireguard"
_KEY_BYTES = 32


def private_key(path: Path) -> str:
    """Return the key of this node, which is made where there is none. The file is for its owner alone. Raises
    PlatformError.
    """
    try:
        try:
            text = read_regular(path, 1 << 8).decode().strip()
        except FileNotFoundError:
            text = b64encode(os.urandom(_KEY_BYTES)).decode()
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{text}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError(f"{path}, the key of the encrypted tunnel: {error}") from error
    if not is_key(text):
        raise PlatformError(f"{path} has no key of WireGuard in it; take it away, and a new one is made")
    return text


class Encryption:
    """The device of one node, and what other nodes have said that their keys are."""

    def __init__(self, host_ip: str, underlay: Link, port: int, key_file: Path, log: Callable[[str], None]) -> None:
        self._host_ip = host_ip
        self._underlay = underlay
        self._port = port
        self._private_key = private_key(key_file)
        self._log = log
        self._keys: dict[str, str] = {}
        #: The nodes (hostIPs) of which alone the device has peers; None before the first look.
        self._followed: frozenset[str] | None = None
        #: What other nodes are told.
        self.public_key = ""

    def ensure(self, kernel: RouteNetlink) -> list[str]:
        """Have the device be there, with the peers that are known; return what differed, a line each. Peers that an
        earlier agent has left stay until their nodes say otherwise, or are gone (``follow``). Raises EgressRouterError,
        PlatformError where the kernel has no WireGuard.
        """
        link, lines = self._ensure_link(kernel)
        with WireGuard() as wireguard:
            device = wireguard.device(ENCRYPTED)
            if device.key != self.public_key or not device.key or device.port != self._port:
                lines.append(f"- key and port of {ENCRYPTED}")
                wireguard.configure(ENCRYPTED, self._private_key, self._port)
                device = wireguard.device(ENCRYPTED)
                self.public_key = device.key
            # Not where they are reached: a peer that answers from another address is followed by the kernel.
            present = {(peer.key, peer.inside) for peer in device.peers}
            for host_ip, key in sorted(self._keys.items()):
                peer = self._peer(host_ip, key)
                if (peer.key, peer.inside) not in present:
                    lines.append(f"- peer {host_ip} of {ENCRYPTED}")
                    self._set(wireguard, peer)
        own = LinkAddress(ENCRYPTED, IPv6Interface((inside_address(self._host_ip), INSIDE.prefixlen)), preferred=False)
        if own not in kernel.addresses(link):
            lines.append(f"- {own}")
            kernel.add_address(link, own)
        return lines

    def _ensure_link(self, kernel: RouteNetlink) -> tuple[Link, list[str]]:
        lines = []
        mtu = encrypted_mtu(self._underlay.mtu, self._host_ip)
        link = kernel.link(ENCRYPTED)
        if link is not None and (link.kind, link.mtu) != ("wireguard", mtu):
            lines.append(f"+ link {link}")
            kernel.remove_link(link)
            link = None
        if link is None:
            lines.append(f"- link {ENCRYPTED}")
            kernel.create_wireguard(ENCRYPTED, mtu)
            link = kernel.link(ENCRYPTED)
            if link is None:
                raise TryAgainError(f"{ENCRYPTED} was made and is gone: something else removes it")
        elif not link.up:
            lines.append(f"- link {ENCRYPTED} up")
        if not link.up:
            kernel.set_up(link)
        return link, lines

    def _peer(self, host_ip: str, key: str) -> Peer:
        return Peer(key, (host_ip, self._port), frozenset({ip_network(inside_address(host_ip))}))

    def _set(self, wireguard: WireGuard, peer: Peer) -> None:
        if peer.endpoint is not None:
            wireguard.set_peer(ENCRYPTED, peer.key, peer.endpoint, peer.inside)

    def learn(self, host_ip: str, key: str) -> None:
        """Take in the public key of another node; one that it had before is taken away. Raises EgressRouterError."""
        before = self._keys.get(host_ip)
        if before == key:
            return
        # First: what fails now is set by ``ensure``.
        self._keys[host_ip] = key
        if before is not None:
            self._log(f"the node {host_ip} has another key of the encrypted tunnel")
        with WireGuard() as wireguard:
            self._set(wireguard, self._peer(host_ip, key))
            for other in wireguard.device(ENCRYPTED).peers:
                # The kernel has taken the address inside from it.
                if other.key != key and not other.inside:
                    wireguard.remove_peer(ENCRYPTED, other.key)

    def follow(self, nodes: Collection[str]) -> None:
        """Forget the keys of nodes that are none of ``nodes`` (hostIPs) any more, those that an earlier agent has left
        as well: who has such a key may send by the tunnel. Raises EgressRouterError.
        """
        wanted = frozenset(nodes)
        if wanted == self._followed and self._keys.keys() <= wanted:
            return
        believed = {ip_network(inside_address(host_ip)) for host_ip in wanted}
        with WireGuard() as wireguard:
            for peer in wireguard.device(ENCRYPTED).peers:
                if not peer.inside <= believed:
                    wireguard.remove_peer(ENCRYPTED, peer.key)
        self._keys = {host_ip: key for host_ip, key in self._keys.items() if host_ip in wanted}
        self._followed = wanted
