"""Adverts between pods, where the egress network carries none.

keepalived speaks and hears multicast, on an interface whose other end is ours; what it says goes to each peer as UDP
between the pods' own addresses, and what peers send is said to it. Its own unicast would be IP protocol 112, which no
NetworkPolicy can name and several CNIs drop. The datagrams have the form of VXLAN (RFC 7348), so that programs which
show packets can show these.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_interface

from egress_router.config.values import Address
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.errors import EgressRouterError, PlatformError
from egress_router.net.arp_nd import mac_bytes
from egress_router.net.oserror import translating
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import LinkAddress
from egress_router.net.vrrp import GROUP_MAC, Advert, AdvertWatch, parsed_advert
from egress_router.redirect.network_state import ADVERT_SOURCES
from egress_router.redirect.pair.values import GROUP, RELAY_END, RELAY_INTERFACE, PairConfig

#: RFC 7348, 5: the flag I, and behind it the network's number in three bytes.
_VALID = 0x08000000
#: Network control (CS6, RFC 4594, 3.1), as other routing protocols have it.
_TRAFFIC_CLASS = 0xC0
#: Where the destination stands in an Ethernet frame with IPv4 in it.
_DESTINATION = slice(30, 34)
_MOST_STRANGERS = 16


class Relay:
    """Takes adverts from keepalived to the ``peers`` and back. ``own`` are the pod's addresses in the cluster.

    ``may_say`` is asked of each advert before it goes to the peers; ``heard`` is called with each of theirs and the
    address that it came from.
    """

    def __init__(self, pair: PairConfig, loop: Loop, own: Callable[[], Iterable[Address]]) -> None:
        self._pair = pair
        self._loop = loop
        self._own = own
        self._header = struct.pack("!II", _VALID, pair.number << 8)
        self._port: AdvertWatch | None = None
        self._index = 0
        self._sockets: dict[int, socket.socket] = {}
        self._strangers: set[str] = set()
        self._problem = ""
        #: By the peer: why the last advert that could not be sent to it was not.
        self._unsent: dict[str, str] = {}
        #: Where the peers are; replaced as a whole, from any thread.
        self.peers: frozenset[str] = frozenset()
        #: The MAC of the egress interface, by which the peers know this router.
        self.mac = ""
        self.may_say: Callable[[Advert], bool] = lambda _: True
        self.heard: Callable[[Advert, str], None] = lambda *_: None

    def open(self, source: IPv4Address) -> None:
        """Make the interface by which keepalived sends as ``source``, and hear the peers. Raises EgressRouterError."""
        self._make_interface(source)
        for address in self._own():
            if address.version not in self._sockets:
                self._sockets[address.version] = self._socket(address)
        if not self._sockets:
            raise PlatformError(
                "the pod has no address in the cluster's network, by which routers of a pair could elect"
            )

    def _make_interface(self, source: IPv4Address) -> None:
        with Rtnetlink() as kernel:
            # What a killed one has left.
            for name in (RELAY_INTERFACE, RELAY_END):
                if link := kernel.link(name):
                    if link.kind != "veth":
                        raise PlatformError(
                            f"{name}, a {link.kind or 'device'} of somebody else's, has the name of an interface that "
                            "a pair with EGRESS_PAIR_NETWORK=cluster makes for itself; give it another one"
                        )
                    kernel.remove_link(link)
            kernel.create_veth(RELAY_INTERFACE, RELAY_END)
            ends = [kernel.link(RELAY_INTERFACE), kernel.link(RELAY_END)]
            for link in ends:
                if link is None:
                    raise PlatformError(f"{RELAY_INTERFACE} was made and is gone")
                kernel.without_own_addresses(link)
                # There is a carrier when both are up.
                kernel.set_up(link, wait=False)
                if link.name == RELAY_INTERFACE:
                    # With the network's length: the reverse path filter wants a route to where adverts come from.
                    where = ip_interface(f"{source}/{ADVERT_SOURCES.prefixlen}")
                    kernel.add_address(link, LinkAddress(link.name, where))
                    self._index = link.index
                else:
                    self._close_port()
                    self._port = AdvertWatch(link.name, link.index, link.mac)
        if self._port is not None:
            self._loop.add_reader(self._port.fileno(), self.pass_on)

    def _socket(self, address: Address) -> socket.socket:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with translating(f"hear the peers at {address}, UDP port {self._pair.port}", "NET_ADMIN"):
            own = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                own.setblocking(False)
                if address.version == 4:
                    own.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _TRAFFIC_CLASS)
                else:
                    own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _TRAFFIC_CLASS)
                own.bind((str(address), self._pair.port))
            except OSError:
                own.close()
                raise
        self._loop.add_reader(own.fileno(), lambda: self._listen(own))
        return own

    def renewed(self, source: IPv4Address) -> bool:
        """Make the interface anew if somebody took it away; return whether that was so."""
        with suppress(OSError):
            if socket.if_nametoindex(RELAY_INTERFACE) == self._index:
                return False
        try:
            self._make_interface(source)
        except EgressRouterError as error:
            if str(error) != self._problem:
                LOGGER.error("%s, by which the pair elects, cannot be made anew: %s", RELAY_INTERFACE, error)
            self._problem = str(error)
            return False
        self._problem = ""
        return True

    def pass_on(self) -> None:
        """Send the peers what keepalived has said."""
        if self._port is None:
            return
        for frame in self._port.frames():
            advert = parsed_advert(frame)
            if advert is None or not self.may_say(advert):
                continue
            data = self._header + GROUP_MAC + mac_bytes(self.mac) + frame[12:]
            for peer in self.peers:
                self._send(data, peer)

    def _send(self, data: bytes, peer: str) -> None:
        own = self._sockets.get(6 if ":" in peer else 4)
        try:
            if own is None:
                raise OSError(0, "this pod has no address of its family")
            own.sendto(data, (peer, self._pair.port))
        except OSError as error:
            why = error.strerror or str(error)
            if why != self._unsent.get(peer):
                LOGGER.warning("adverts cannot be sent to %s, UDP port %d: %s", peer, self._pair.port, why)
                self._unsent = {known: old for known, old in self._unsent.items() if known in self.peers}
                self._unsent[peer] = why

    def _listen(self, own: socket.socket) -> None:
        for _ in range(1000):
            try:
                data, place = own.recvfrom(2048)
            except OSError:
                # Nothing more, or an ICMP error about what was sent.
                return
            self._take(data, str(ip_address(place[0].partition("%")[0])))

    def _take(self, data: bytes, peer: str) -> None:
        if peer not in self.peers:
            if peer not in self._strangers and len(self._strangers) < _MOST_STRANGERS:
                self._strangers.add(peer)
                LOGGER.warning("%s, which EGRESS_PAIR_PEERS does not name, sends adverts; they are not heeded", peer)
            return
        frame = GROUP_MAC + data[len(self._header) + len(GROUP_MAC) :]
        advert = parsed_advert(frame)
        known = data.startswith(self._header) and frame[_DESTINATION] == GROUP.packed
        if known and advert is not None and advert.number == self._pair.number and advert.mac != self.mac:
            if self._port is not None:
                self._port.send(frame)
            self.heard(advert, peer)

    def _close_port(self) -> None:
        if self._port is not None:
            self._loop.remove(self._port.fileno())
            self._port.close()
            self._port = None

    def close(self) -> None:
        """Hear nobody any more, and take the interface away."""
        self._close_port()
        for own in self._sockets.values():
            self._loop.remove(own.fileno())
            own.close()
        self._sockets.clear()
        with suppress(EgressRouterError), Rtnetlink() as kernel:
            if link := kernel.link(RELAY_INTERFACE):
                kernel.remove_link(link)
