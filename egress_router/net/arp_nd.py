"""Ask who has an address, and tell everybody that we have it, by raw sockets.

ARP: RFC 826, RFC 5227. IPv6 neighbour discovery: RFC 4861, duplicate detection: RFC 4862.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address

from egress_router.config.values import Address
from egress_router.errors import AddressInUse, TryAgainError
from egress_router.net.oserror import translating
from egress_router.records import dataclass

_ETH_P_ALL = 0x0003
_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC = b"\x33\x33\x00\x00\x00\x01"
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
_UNSPECIFIED6 = bytes(16)
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST = 263, 1, 0
_NS, _NA = 135, 136
_ARP_REPLY = 2
_OVERRIDE = 0x20000000

#: RFC 5227 probes three times, one to two seconds apart, because of the slow links of its day. A switched LAN answers
#: within milliseconds: three probes, 0.2 s apart, and 0.3 s of listening after the last one find what answers at all.
PROBES = 3
PROBE_INTERVAL = 0.2
LISTEN_AFTER = 0.3


@dataclass(frozen=True, slots=True)
class Pace:
    """How often is asked, how long between two times, and how long is listened after the last; seconds."""

    probes: int = PROBES
    interval: float = PROBE_INTERVAL
    listen: float = LISTEN_AFTER


USUAL = Pace()
#: For an address that somebody waits for, whose holder is known to be gone: 0.15 s.
HURRIED = Pace(2, 0.05, 0.1)


class Neighbours:
    """Speaks ARP and neighbour discovery on one interface, which must be up. ``mac`` is the interface's own;
    ``shared``: others have it, too, and what is sent to it alone arrives at the one that has the address (ipvlan).

    Everything here raises TryAgainError when the interface goes down or away meanwhile; making one raises
    CapabilityError without NET_RAW.
    """

    def __init__(self, interface: str, index: int, mac: str, *, shared: bool = False) -> None:
        self._interface = interface
        self._shared = shared
        self._mac = mac_bytes(mac)
        self._index = index
        with translating(f"ARP and neighbour discovery on {interface}", "NET_RAW"):
            # Without a protocol, until it is bound: else it hears all interfaces, and to be bound to one it waits until
            # the kernel no longer uses that (10 ms and more).
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.bind((interface, _ETH_P_ALL))
            self._hear(_ALL_NODES_MAC)
        except OSError as error:
            self._socket.close()
            raise self._lost(error) from error

    def _hear(self, group: bytes) -> None:
        """Let frames to a multicast MAC through the interface's filter."""
        membership = struct.pack("=iHH8s", self._index, _PACKET_MR_MULTICAST, 6, group)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.send(frame)
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> TryAgainError:
        return TryAgainError(f"no ARP or neighbour discovery on {self._interface}: {error.strerror}")

    def close(self) -> None:
        """Close the raw socket."""
        self._socket.close()

    def check_duplicates(
        self,
        addresses: Iterable[Address],
        gateways: Iterable[Address] = (),
        pace: Pace = USUAL,
        *,
        hasty: bool = False,
    ) -> None:
        """Probe for ``addresses`` together; about 0.7 s at the usual pace. Raises AddressInUse naming each that is
        taken, the MAC that has it and what that said; when ``hasty`` already after the first probe that was answered,
        0.2 s: who waits for the end of another owner asks again that much sooner.

        The MAC of one of ``gateways`` that only answers is no other owner: a router answers for others, too (proxy ARP,
        RFC 1027; proxied advertisements, RFC 4861, 7.2.8).
        """
        wanted = list(addresses)
        asked = list(gateways)
        claims: list[Claim] = []
        for address in wanted:
            if address.version == 6:
                # Where other machines' probes for it go (RFC 4862, 5.4.2).
                try:
                    self._hear(b"\x33\x33\xff" + address.packed[13:])
                except OSError as error:
                    raise self._lost(error) from error
        end = time.monotonic()
        for _ in range(pace.probes):
            for address in wanted:
                self._send(self._probe(address))
            for address in asked:
                self._send(self._question_without_address(address))
            end += pace.interval
            claims += self._listen({*wanted, *asked}, end)
            if hasty and (taken := _taken(claims, wanted, asked)):
                raise self._in_use(taken)
        claims += self._listen({*wanted, *asked}, end - pace.interval + pace.listen)
        if taken := _taken(claims, wanted, asked):
            raise self._in_use(taken)

    def announce(self, addresses: Iterable[Address]) -> None:
        """Send a gratuitous ARP request (RFC 5227, 2.3) or an unsolicited advertisement (RFC 4861, 7.2.6) for each."""
        for address in addresses:
            self._send(self._announcement(address))

    def _in_use(self, claims: Collection[Claim]) -> AddressInUse:
        found = "; ".join(
            f"{claim.address} is in use: {claim.mac} has it on {self._interface} ({claim.heard})" for claim in claims
        )
        return AddressInUse(
            f"{found}. Two machines with one address break each other; remove the other one (an old router pod?), or "
            "choose another address",
            asked=all(claim.asks for claim in claims),
        )

    def _listen(self, wanted: Collection[Address], end: float) -> list[Claim]:
        """Return what other machines claim of ``wanted`` until the time ``end``."""
        found = []
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame = self._socket.recv(2048)
            except TimeoutError:
                break
            except OSError as error:
                raise self._lost(error) from error
            claim = claimed(frame)
            if claim is not None and claim.address in wanted and claim.mac != self._mac.hex(":"):
                found.append(claim)
        return found

    def _probe(self, address: Address) -> bytes:
        if address.version == 4:
            return self._arp(bytes(4), address.packed)
        # RFC 4861, 4.3: to the solicited-node address, from ::, without a source option.
        group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + address.packed[13:]
        body = struct.pack("!BBHI", _NS, 0, 0, 0) + address.packed
        return self._ipv6(b"\x33\x33" + group[12:], _UNSPECIFIED6, group, body)

    def _question(self, address: Address, source: Address) -> bytes:
        if address.version == 4:
            return self._arp(source.packed, address.packed)
        group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + address.packed[13:]
        option = struct.pack("!BB6s", 1, 1, self._mac)
        body = struct.pack("!BBHI", _NS, 0, 0, 0) + address.packed + option
        return self._ipv6(b"\x33\x33" + group[12:], source.packed, group, body)

    def _question_without_address(self, address: Address) -> bytes:
        """Return a question to a gateway of who has no address yet: over IPv4 a probe (RFC 5227, 2.1.1), over IPv6 from
        the link-local address that the interface would have.

        Not from ::, which is duplicate address detection: a gateway that is in the middle of its own would take its
        address for somebody else's, and give it up for good (RFC 4862, 5.4.3). Where the MAC is ``shared`` there is no
        other way: the answer to that goes to all nodes.
        """
        if address.version == 4 or self._shared:
            return self._probe(address)
        return self._question(address, link_local(self._mac))

    def _announcement(self, address: Address) -> bytes:
        if address.version == 4:
            return self._arp(address.packed, address.packed)
        option = struct.pack("!BB6s", 2, 1, self._mac)
        body = struct.pack("!BBHI", _NA, 0, 0, _OVERRIDE) + address.packed + option
        return self._ipv6(_ALL_NODES_MAC, address.packed, _ALL_NODES, body)

    def _arp(self, sender: bytes, target: bytes) -> bytes:
        header = _BROADCAST + self._mac + struct.pack("!H", _ETH_P_ARP)
        return header + _ARP.pack(1, 0x0800, 6, 4, 1, self._mac, sender, bytes(6), target)

    def _ipv6(self, mac: bytes, source: bytes, destination: bytes, body: bytes) -> bytes:
        checksum = _checksum(source + destination + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6) + body)
        body = body[:2] + struct.pack("!H", checksum) + body[4:]
        # Hop limit 255 proves that no router passed it on (RFC 4861, 7.1).
        header = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255) + source + destination
        return mac + self._mac + struct.pack("!H", _ETH_P_IPV6) + header + body


@dataclass(frozen=True, slots=True)
class Claim:
    """A machine says that it has ``address``, or is about to take it (``asks``). ``answer``: it was asked; ``heard``:
    how it said it.
    """

    mac: str
    address: Address
    answer: bool
    heard: str
    asks: bool = False


def mac_bytes(mac: str) -> bytes:
    """Return the six bytes of a MAC address."""
    return bytes.fromhex(mac.replace(":", ""))


def _taken(claims: Collection[Claim], wanted: Collection[Address], gateways: Collection[Address]) -> list[Claim]:
    """Return a claim for each of ``wanted`` that somebody has, or wants."""
    routers = {claim.mac for claim in claims if claim.address in gateways}
    taken: dict[Address, Claim] = {}
    for claim in claims:
        if claim.address in wanted and not (claim.answer and claim.mac in routers):
            known = taken.get(claim.address)
            # Who has it says more than who asks for it.
            if known is None or known.asks:
                taken[claim.address] = claim
    return list(taken.values())


def claimed(frame: bytes) -> Claim | None:
    """Return what an Ethernet frame claims; None for other frames.

    ARP: the sender of any ARP packet, or the target of a probe, which is broadcast (RFC 5227, 2.1.1): switches that
    look whether a known neighbour is still there send probes to it alone. IPv6: the target of an advertisement, or of a
    solicitation from ``::``, which is multicast (another machine's duplicate address detection).
    """
    if len(frame) < 42:
        return None
    kind: int = struct.unpack_from("!H", frame, 12)[0]
    to_all = bool(frame[0] & 1)
    if kind == _ETH_P_ARP:
        _, protocol, _, _, operation, mac, sender, _, target = _ARP.unpack_from(frame, 14)
        if protocol != 0x0800:
            return None
        if sender != bytes(4):
            heard = "an ARP reply" if operation == _ARP_REPLY else "an ARP request from it"
            return Claim(mac.hex(":"), IPv4Address(sender), operation == _ARP_REPLY and not to_all, heard)
        heard = "an ARP probe: it is about to take it"
        probe = Claim(mac.hex(":"), IPv4Address(target), answer=False, heard=heard, asks=True)
        return probe if to_all else None
    if kind != _ETH_P_IPV6 or len(frame) < 78 or frame[20] != socket.IPPROTO_ICMPV6 or frame[21] != 255:
        return None
    type_, source, address = frame[54], frame[22:38], IPv6Address(frame[62:78])
    mac = frame[6:12].hex(":")
    if type_ == _NA:
        # To a probe from :: the answer goes to all nodes; with the override flag it is no proxy's (RFC 4861, 7.2.8).
        proxied = not frame[58] & 0x20
        return Claim(mac, address, proxied or not to_all, "a neighbour advertisement")
    if type_ == _NS and source == _UNSPECIFIED6 and to_all:
        return Claim(mac, address, answer=False, heard="its duplicate address detection", asks=True)
    return None


def link_local(mac: bytes) -> IPv6Address:
    """Return the link-local address that an interface of that MAC has by itself (RFC 4291, 2.5.1 and appendix A)."""
    return IPv6Address(bytes.fromhex("fe80" + "00" * 6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
