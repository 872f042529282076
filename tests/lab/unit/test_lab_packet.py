"""The capture's parser: fields of hand-made frames, and no input makes it fail."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.addressing import is_outside
from lab.capture import claims
from lab.packet import Packet, parse_frame, read_pcap

MACS = bytes.fromhex("0200000000aa 0200000000bb")
HERE, THERE = ip_address("192.0.2.11"), ip_address("203.0.113.25")
HERE6, THERE6 = ip_address("2001:db8:2::11"), ip_address("2001:db8:113::25")


def ipv4(protocol: int, body: bytes, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, fragment, 63, protocol, 0)
    return MACS + b"\x08\x00" + head + HERE.packed + THERE.packed + body


def ipv6(following: int, body: bytes) -> bytes:
    return (
        MACS
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, len(body), following, 62)
        + HERE6.packed
        + THERE6.packed
        + body
    )


def syn(options: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", 1025, 80, 0, 0, (20 + len(options)) << 2, 0x02, 0, 0, 0) + options


def arp(operation: int, sender: str, target: str) -> bytes:
    pair = MACS[6:] + ip_address(sender).packed
    return (
        MACS
        + bytes.fromhex("0806 0001 0800 06 04")
        + operation.to_bytes(2)
        + pair
        + bytes(6)
        + ip_address(target).packed
    )


def parse(frame: bytes) -> Packet:
    return parse_frame(frame, 1.5, len(frame))


def test_tcp() -> None:
    packet = parse(ipv4(6, syn(bytes.fromhex("01 01 0402 0204 05b4")) + b"data"))
    assert (packet.src_mac, packet.dst_mac) == ("02:00:00:00:00:bb", "02:00:00:00:00:aa")
    assert (packet.family, packet.proto, packet.src, packet.dst, packet.ttl) == (4, "tcp", HERE, THERE, 63)
    assert (packet.sport, packet.dport, packet.tcp_flags, packet.mss, packet.payload) == (1025, 80, "S", 1460, b"data")
    assert str(packet).endswith("IP 192.0.2.11.1025 > 203.0.113.25.80 tcp [S] mss 1460 length 66")


def test_ipv6_udp_behind_hop_by_hop_options() -> None:
    packet = parse(ipv6(0, bytes([17, 0, 5, 2, 0, 0, 0, 0]) + struct.pack("!HHHH", 53, 5353, 12, 0) + b"text"))
    assert (packet.family, packet.proto, packet.src, packet.dst) == (6, "udp", HERE6, THERE6)
    assert (packet.sport, packet.dport, packet.payload) == (53, 5353, b"text")


def test_later_fragment_has_no_ports() -> None:
    assert parse(ipv4(17, bytes(8), fragment=0x2000)).sport == 0
    assert parse(ipv4(17, bytes(8), fragment=0x0001)).sport is None


@pytest.mark.parametrize(
    ("frame", "text", "owner"),
    [
        (arp(1, "192.0.2.1", "192.0.2.46"), "ARP who-has 192.0.2.46 tell 192.0.2.1", None),
        (
            arp(1, "192.0.2.46", "192.0.2.46"),
            "ARP announcement 192.0.2.46 is-at 02:00:00:00:00:bb",
            "02:00:00:00:00:bb",
        ),
        (arp(2, "192.0.2.46", "192.0.2.1"), "ARP reply 192.0.2.46 is-at 02:00:00:00:00:bb", "02:00:00:00:00:bb"),
    ],
)
def test_arp(frame: bytes, text: str, owner: str | None) -> None:
    assert text in str(parse(frame))
    assert claims(parse(frame), ip_address("192.0.2.46")) == owner


def test_neighbour_advertisement() -> None:
    target = ip_address("2001:db8:2::46")
    packet = parse(ipv6(58, bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + target.packed + bytes.fromhex("0201 0200000000cc")))
    assert (packet.proto, packet.icmp_type, packet.target) == ("icmpv6", 136, target)
    assert claims(packet, target) == "02:00:00:00:00:cc"
    assert claims(packet, HERE6) == "02:00:00:00:00:bb"


@given(st.binary(max_size=200), st.sampled_from([b"\x08\x00\x45", b"\x86\xdd", b"\x08\x06", b""]))
def test_any_frame_is_a_packet(rest: bytes, kind: bytes) -> None:
    packet = parse_frame(MACS + kind + rest, 0.0, 60)
    assert str(packet).endswith("length 60")


@given(st.binary(max_size=300))
def test_torn_file_ends_at_its_last_whole_record(tail: bytes) -> None:
    frame = ipv4(6, syn())
    record = struct.pack("<IIII", 7, 500_000_000, len(frame), 999) + frame
    packets = list(read_pcap(bytes(24) + record + record + record[: len(tail) % len(record)]))
    assert [(packet.time, packet.length) for packet in packets] == [(7.5, 999)] * 2


@pytest.mark.parametrize(
    ("address", "outside"),
    [
        ("203.0.113.25", True),
        ("2001:db8:113::25", True),
        ("192.0.2.99", False),
        ("198.51.100.2", False),
        ("2001:db8:a:1::2", False),
        ("2001:db8:2::99", False),
        ("224.0.0.22", False),
        ("255.255.255.255", False),
        ("169.254.1.1", False),
        ("fe80::1", False),
        ("ff02::16", False),
    ],
)
def test_outside(address: str, outside: bool) -> None:
    assert is_outside(ip_address(address)) is outside
