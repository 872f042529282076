"""Ask gateways whether they are there, and hear who claims our addresses. ARP: RFC 826, IPv6: RFC 4861."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from egress_router.config.values import Address
from egress_router.errors import TryAgainError
from egress_router.net.arp_nd import _NA, _NS, Claim, Neighbours, claimed, mac_bytes
from egress_router.net.oserror import from_os

_SO_ATTACH_FILTER = 26
#: linux/filter.h: (code, jump if true, jump if false, operand). Without it every packet would wake us up.
#: ARP, or IPv6 with ICMPv6 as its first header and type 136 (neighbour advertisement), or 135 (solicitation) from ::.
_FILTER = (
    (0x28, 0, 0, 12),  # load the EtherType
    (0x15, 14, 0, 0x0806),  # ARP: accept
    (0x15, 0, 14, 0x86DD),  # not IPv6: drop
    (0x30, 0, 0, 20),  # load the next header
    (0x15, 0, 12, 58),
    (0x30, 0, 0, 54),  # load the ICMPv6 type
    (0x15, 9, 0, _NA),
    (0x15, 0, 9, _NS),
    (0x20, 0, 0, 22),  # load the four words of the source, one after the other
    (0x15, 0, 7, 0),
    (0x20, 0, 0, 26),
    (0x15, 0, 5, 0),
    (0x20, 0, 0, 30),
    (0x15, 0, 3, 0),
    (0x20, 0, 0, 34),
    (0x15, 0, 1, 0),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)


class NeighbourWatch(Neighbours):
    """Speaks and hears ARP and neighbour discovery on one interface, without ever waiting.

    ``on_probe`` is called with an address that somebody asks for before taking it (duplicate address detection), while
    ``heard`` reads; the kernel answers for those that we have.
    """

    def __init__(self, interface: str, index: int, mac: str, *, shared: bool = False) -> None:
        super().__init__(interface, index, mac, shared=shared)
        self._asked: set[Address] = set()
        self._routers: dict[Address, str] = {}
        self.on_probe: Callable[[Address], None] = lambda _: None
        program = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        self._buffer = ctypes.create_string_buffer(program)
        head = struct.pack("@HP", len(_FILTER), ctypes.addressof(self._buffer))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise from_os(error, f"hear ARP and neighbour discovery on {interface}", "NET_RAW") from error

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def ask(self, address: Address, source: Address | None, *, to_all: bool = True) -> None:
        """Ask who has ``address``, as ``source``, or as somebody who has no address. ``to_all`` machines, or only the
        one that has answered last. An interface that is down asks nobody.
        """
        self._asked.add(address)
        frame = self._question_without_address(address) if source is None else self._question(address, source)
        known = self._routers.get(address)
        self._send_if_up(frame, None if to_all else known)

    def probe_own(self, address: Address, to: str | None = None) -> None:
        """Ask who else has our ``address`` (RFC 5227, 2.1.1): another machine that has it answers. ``to``: only that
        MAC is asked.
        """
        self._send_if_up(self._probe(address), to)

    def _send_if_up(self, frame: bytes, to: str | None) -> None:
        """Send a frame, to one MAC instead of to all where that is given; an interface that is down sends nothing."""
        if to is not None:
            frame = mac_bytes(to) + frame[6:]
        with suppress(TryAgainError):
            self._send(frame)

    def tell(self, addresses: tuple[Address, ...]) -> None:
        """Announce that we have ``addresses``. An interface that is down tells nobody."""
        try:
            self.announce(addresses)
        except TryAgainError:
            return

    def heard(self) -> list[Claim]:
        """Return what other machines have said since the last time. Those that only answer for an address and have one
        of those that were asked for by ``ask``, gateways, answer for others, too (proxy ARP), so that is left out.
        """
        found: list[Claim] = []
        for _ in range(1000):
            try:
                frame = self._socket.recv(2048)
            except OSError:
                # Nothing more, or the interface went down; the link's own events tell that.
                break
            claim = claimed(frame)
            if claim is None or claim.mac == self._mac.hex(":"):
                continue
            if claim.asks:
                self.on_probe(claim.address)
                continue
            if claim.address in self._asked:
                self._routers[claim.address] = claim.mac
            elif claim.answer and claim.mac in self._routers.values():
                continue
            found.append(claim)
        return found
