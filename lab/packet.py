"""Frames of a pcap file as values: the fields that tests ask about."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from lab.addressing import Address

PCAP_FILE_HEADER = 24
PCAP_RECORD = struct.Struct("<IIII")
ETHERNET = 14
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
HOP_BY_HOP, FRAGMENT = 0, 44
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
#: From the lowest bit up, in tcpdump's letters.
FLAG_LETTERS = "FSRP.UEC"


@dataclass(frozen=True, slots=True)
class Packet:
    """One frame. ``time`` is in seconds since the epoch, ``length`` in bytes with the Ethernet header.

    For ARP, ``family`` is 4, ``proto`` is "arp", ``src`` and ``dst`` are the sender's and the target's protocol
    address, ``arp_op`` is 1 (request) or 2 (reply). For neighbour discovery ``target`` is the address asked for or
    announced and ``target_mac`` the link-layer address in the option; for ARP, they are the sender's pair in a
    reply or announcement. ``tcp_flags`` is as tcpdump writes it ("S", "S.", "F."), ``mss`` the option of a SYN.
    """

    time: float
    src_mac: str
    dst_mac: str
    family: int
    src: Address | None
    dst: Address | None
    proto: str
    length: int
    sport: int | None = None
    dport: int | None = None
    ttl: int | None = None
    tcp_flags: str = ""
    mss: int | None = None
    icmp_type: int | None = None
    arp_op: int | None = None
    target: Address | None = None
    target_mac: str | None = None
    payload: bytes = b""

    def __str__(self) -> str:
        return f"{self.src_mac} > {self.dst_mac} {self._what()} length {self.length}"

    def _what(self) -> str:
        if self.proto == "arp":
            if self.arp_op == 1 and self.src != self.dst:
                return f"ARP who-has {self.dst} tell {self.src}"
            verb = "announcement" if self.src == self.dst else "reply"
            return f"ARP {verb} {self.src} is-at {self.target_mac}"
        name = {4: "IP", 6: "IP6"}.get(self.family, "?")
        ends = " > ".join(
            f"{address}" if port is None else f"{address}.{port}"
            for address, port in ((self.src, self.sport), (self.dst, self.dport))
        )
        detail = {
            "tcp": f"tcp [{self.tcp_flags}]" + (f" mss {self.mss}" if self.mss else ""),
            "icmp": f"icmp type {self.icmp_type}",
            "icmpv6": f"icmp6 type {self.icmp_type}" + (f" target {self.target}" if self.target else ""),
        }.get(self.proto, self.proto)
        return f"{name} {ends} {detail}"


@lru_cache(maxsize=4096)
def address_of(raw: bytes) -> Address:
    """Return 4 or 16 bytes as an address."""
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)


@lru_cache(maxsize=4096)
def mac_of(raw: bytes) -> str:
    """Return 6 bytes as a hardware address."""
    return raw.hex(":")


def read_pcap(data: bytes) -> Iterator[Packet]:
    """Yield the packets of a little-endian nanosecond pcap of Ethernet frames, without a torn last record."""
    at = PCAP_FILE_HEADER
    while at + PCAP_RECORD.size <= len(data):
        seconds, nanoseconds, kept, length = PCAP_RECORD.unpack_from(data, at)
        at += PCAP_RECORD.size
        if at + kept > len(data):
            return
        yield parse_frame(data[at : at + kept], seconds + nanoseconds / 1e9, length)
        at += kept


def parse_frame(frame: bytes, time: float, length: int) -> Packet:
    """Return a frame as a Packet; what is cut off or unknown is left out."""
    base: dict[str, Any] = {
        "time": time,
        "dst_mac": mac_of(frame[0:6]),
        "src_mac": mac_of(frame[6:12]),
        "length": length,
    }
    ethertype = int.from_bytes(frame[12:14])
    body = frame[ETHERNET:]
    fields: dict[str, Any] = {"family": 0, "src": None, "dst": None, "proto": f"0x{ethertype:04x}"}
    if ethertype == ARP and len(body) >= 28:
        fields = arp(body)
    elif ethertype == IPV4 and len(body) >= 20:
        fields = ipv4(body)
    elif ethertype == IPV6 and len(body) >= 40:
        fields = ipv6(body)
    return Packet(**(base | fields))


def arp(body: bytes) -> dict[str, Any]:
    """Parse ARP for IPv4 over Ethernet (RFC 826)."""
    operation = int.from_bytes(body[6:8])
    src, dst = address_of(body[14:18]), address_of(body[24:28])
    fields: dict[str, Any] = {"family": 4, "proto": "arp", "arp_op": operation, "src": src, "dst": dst}
    if operation == 2 or src == dst:
        fields |= {"target": src, "target_mac": mac_of(body[8:14])}
    return fields


def ipv4(body: bytes) -> dict[str, Any]:
    """Parse an IPv4 header (RFC 791) and what follows it."""
    header = (body[0] & 0x0F) * 4
    total = int.from_bytes(body[2:4])
    later_fragment = int.from_bytes(body[6:8]) & 0x1FFF != 0
    fields: dict[str, Any] = {
        "family": 4,
        "src": address_of(body[12:16]),
        "dst": address_of(body[16:20]),
        "ttl": body[8],
        "proto": PROTOCOLS.get(body[9], str(body[9])),
    }
    # A frame is padded to 60 bytes; and with segmentation offload, total may be 0 or less than what follows.
    return fields if later_fragment else fields | transport(body[9], body[header : total if total > header else None])


def ipv6(body: bytes) -> dict[str, Any]:
    """Parse an IPv6 header (RFC 8200), skipping hop-by-hop options, and what follows it."""
    following, at = body[6], 40
    if following == HOP_BY_HOP and len(body) >= at + 8:
        following, at = body[at], at + 8 + body[at + 1] * 8
    fields: dict[str, Any] = {
        "family": 6,
        "src": address_of(body[8:24]),
        "dst": address_of(body[24:40]),
        "ttl": body[7],
        "proto": PROTOCOLS.get(following, str(following)),
    }
    if following == FRAGMENT:
        return fields
    return fields | transport(following, body[at:])


def transport(number: int, body: bytes) -> dict[str, Any]:
    """Parse ports, TCP flags and MSS, ICMP types and neighbour discovery."""
    if number == 6 and len(body) >= 20:
        header = (body[12] >> 4) * 4
        return {
            **ports(body),
            "tcp_flags": "".join(letter for bit, letter in enumerate(FLAG_LETTERS) if body[13] >> bit & 1),
            "mss": mss_option(body[20:header]),
            "payload": body[header:],
        }
    if number == 17 and len(body) >= 8:
        return {**ports(body), "payload": body[8:]}
    if number == 132 and len(body) >= 12:
        return ports(body)
    if number == 1 and body:
        return {"icmp_type": body[0], "payload": body[8:]}
    if number == 58 and body:
        return {"icmp_type": body[0], "payload": body[8:], **neighbour(body)}
    return {}


def ports(body: bytes) -> dict[str, Any]:
    """Return the two ports that TCP, UDP and SCTP start with."""
    return {"sport": int.from_bytes(body[0:2]), "dport": int.from_bytes(body[2:4])}


def mss_option(options: bytes) -> int | None:
    """Return the maximum segment size among TCP options (RFC 9293, 3.2)."""
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if at + 4 <= len(options) and options[at] == 2:
            return int.from_bytes(options[at + 2 : at + 4])
        if at + 1 >= len(options) or options[at + 1] < 2:
            break
        at += options[at + 1]
    return None


def neighbour(body: bytes) -> dict[str, Any]:
    """Return the target of a neighbour solicitation or advertisement (RFC 4861), and the MAC an advertisement gives."""
    if body[0] not in (NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT) or len(body) < 24:
        return {}
    fields: dict[str, Any] = {"target": address_of(body[8:24])}
    if body[0] == NEIGHBOUR_ADVERTISEMENT and len(body) >= 32 and body[24] == 2:
        fields["target_mac"] = mac_of(body[26:32])
    return fields
