"""IPv4 addresses inside IPv6 addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.embedded_ipv4 import behind_prefix, embedded_ipv4, not_a_server

#: Every form of 192.0.2.33, those of RFC 6052 as its section 2.4 has them, with the prefix of RFC 8215.
FORMS = [
    "::ffff:192.0.2.33",
    "::192.0.2.33",
    "::ffff:0:192.0.2.33",
    "64:ff9b::192.0.2.33",
    "64:ff9b:1:c000:2:2100::",
    "64:ff9b:1:abc0:0:221::",
    "64:ff9b:1:abc0:0:221::",
    "64:ff9b:1:ab12:c0:2:2100:0",
    "64:ff9b:1::192.0.2.33",
    "64:ff9b:1:ab12:0:cd34:192.0.2.33",
    "2002:c000:221::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdde",
    "2001:0:c000:221::",
    "2001:db8::5efe:192.0.2.33",
    "2001:db8::200:5efe:192.0.2.33",
]


@pytest.mark.parametrize("text", FORMS)
def test_embedded(text: str) -> None:
    assert IPv4Address("192.0.2.33") in embedded_ipv4(ip_address(text))


@pytest.mark.parametrize("text", ["::", "::1", "2001:db8::192.0.2.33", "2600::1", "192.0.2.33"])
def test_no_address_inside(text: str) -> None:
    assert embedded_ipv4(ip_address(text)) == ()


@given(st.integers(0, 2**32 - 1), st.sampled_from([48, 56, 64, 96]), st.integers(0, 2**96 - 1))
def test_behind_every_length_of_prefix(inner: int, length: int, prefix: int) -> None:
    """Put an address where RFC 6052 (2.2) has it, and find it there."""
    bits = f"{prefix:096b}"[:length] + f"{inner:032b}"
    if length < 96:
        bits = bits[:64] + "00000000" + bits[64:]
    assert behind_prefix(int(bits.ljust(128, "0"), 2), length) == inner


@pytest.mark.parametrize(
    "inner", ["127.0.0.1", "127.8.8.8", "169.254.169.254", "0.1.2.3", "224.0.0.1", "255.255.255.255"]
)
def test_closed_in_every_form(inner: str) -> None:
    number = int(IPv4Address(inner))
    forms = [
        number,
        0xFFFF << 48 | number,
        (0x64FF9B << 96) | number,
        (0x64FF9B0001 << 80) | number,
        (0x2002 << 112) | number << 80 | 1,
        (0x20010000 << 96) | (number ^ 0xFFFFFFFF),
        (0x20010DB8 << 96) | 0x5EFE << 32 | number,
    ]
    assert not_a_server(ip_address(inner))
    for form in forms:
        assert not_a_server(IPv6Address(form)), IPv6Address(form)


@pytest.mark.parametrize("text", ["fd00:ec2::254", "fe80::1", "::1", "::", "ff02::1", "fe80::a9fe:a9fe"])
def test_closed_ipv6(text: str) -> None:
    assert not_a_server(ip_address(text))


@pytest.mark.parametrize("text", ["203.0.113.25", "10.0.0.1", "2001:db8::25", "64:ff9b::203.0.113.25", "fd00::1"])
def test_usable(text: str) -> None:
    assert not_a_server(ip_address(text)) is None


@given(st.integers(0, 2**128 - 1))
def test_no_address_makes_a_traceback(number: int) -> None:
    assert len(embedded_ipv4(IPv6Address(number))) <= 5
