"""Words of nft and bytes of the kernel are two forms of one value."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egress_router.net.nft.codec import codec

PORTS = st.integers(0, 65535)
WORDS = {
    "inet_service": PORTS.map(str),
    "inet_proto": st.sampled_from(["tcp", "udp", "sctp"]),
    "ipv4_addr": st.ip_addresses(v=4).map(str),
    "ipv6_addr": st.ip_addresses(v=6).map(str),
}


@st.composite
def typed_words(draw: st.DrawFn) -> tuple[str, str]:
    parts = draw(st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=3))
    return " . ".join(parts), " . ".join(draw(WORDS[part]) for part in parts)


@given(typed_words())
# Python 3.13 writes the last 32 bits of a mapped address as an IPv4 address, older ones do not.
@example(("ipv6_addr", str(IPv6Address("::ffff:cb00:7119"))))
@example(("ipv6_addr", "::cb00:7119"))
def test_words_come_back(typed: tuple[str, str]) -> None:
    types, words = typed
    known = codec(types)
    assert known is not None
    data = known.write(words)
    assert len(data) == known.size
    assert known.read(data) == words


def test_parts_of_a_concatenation_are_padded_to_four_bytes() -> None:
    known = codec("inet_proto . inet_service")
    assert known is not None
    assert known.write("tcp . 443") == b"\x06\0\0\0\x01\xbb\0\0"


def test_a_type_that_nobody_knows_has_no_codec() -> None:
    assert codec("icmp_type") is None
    assert codec("ipv4_addr . icmp_type") is None


@given(st.tuples(PORTS, PORTS).map(sorted))
def test_ports_of_an_interval(ends: list[int]) -> None:
    known = codec("inet_service")
    assert known is not None
    words = str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"
    first, after = known.first_and_after(words)
    assert int.from_bytes(first) == ends[0]
    assert after == (None if ends[1] == 65535 else (ends[1] + 1).to_bytes(2))
    assert known.interval(first, after) == words


@pytest.mark.parametrize(
    ("types", "words", "after"),
    [
        ("ipv4_addr", "203.0.113.7", IPv4Address("203.0.113.8").packed),
        ("ipv4_addr", "203.0.113.0/24", IPv4Address("203.0.114.0").packed),
        ("ipv4_addr", "203.0.113.1-203.0.113.2", IPv4Address("203.0.113.3").packed),
        ("ipv4_addr", "0.0.0.0/0", None),
        ("ipv6_addr", "2001:db8::/32", IPv6Address("2001:db9::").packed),
        ("ipv6_addr", "8000::/1", None),
    ],
)
def test_addresses_of_an_interval(types: str, words: str, after: bytes | None) -> None:
    known = codec(types)
    assert known is not None
    first, end = known.first_and_after(words)
    assert end == after
    assert known.interval(first, end) == words
