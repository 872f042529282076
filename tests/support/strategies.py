"""Configuration text for property tests: right, nearly right, and anything at all."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from egress_router.config.values import Address, Family, PortRange, Protocol
from egress_router.redirect.values import Fallback, Redirect, Ruleset

PORTS = st.integers(1, 65535)
DESTINATIONS4 = st.integers(int(IPv4Address("203.0.113.1")), int(IPv4Address("203.0.113.254"))).map(IPv4Address)
DESTINATIONS6 = st.integers(int(IPv6Address("2001:db8:113::1")), int(IPv6Address("2001:db8:113::ffff"))).map(
    IPv6Address
)
DESTINATIONS: dict[Family, SearchStrategy[Address]] = {
    Family.IPV4: DESTINATIONS4,
    Family.IPV6: DESTINATIONS6,
}


@st.composite
def disjoint_ranges(draw: st.DrawFn, max_size: int = 12) -> list[PortRange]:
    """Ranges that share no port, in any order; next to each other, apart, wide and of one port."""
    edges = sorted(draw(st.lists(PORTS, max_size=2 * max_size, unique=True)))
    ranges = [PortRange(first, last) for first, last in zip(edges[::2], edges[1::2], strict=False)]
    ranges = [PortRange(r.first, r.first) if draw(st.integers(0, 2)) == 0 else r for r in ranges]
    return draw(st.permutations(ranges))


@st.composite
def rulesets(draw: st.DrawFn, max_size: int = 8, widest_shift: int = 300) -> Ruleset:
    """Valid rules of both families and all protocols; a shifted range is no wider than ``widest_shift``."""
    rules: list[tuple[Protocol, PortRange, Address]] = []
    for family in Family:
        for protocol in Protocol:
            for ports in draw(disjoint_ranges(max_size)):
                address = draw(DESTINATIONS[family])
                rules.append((protocol, ports, address))
    redirects = []
    for line, (protocol, ports, address) in enumerate(draw(st.permutations(rules)), start=1):
        to_ports = ports
        if len(ports) <= widest_shift and draw(st.booleans()):
            first = draw(st.integers(1, 65535 - len(ports) + 1))
            to_ports = PortRange(first, first + len(ports) - 1)
        redirects.append(Redirect(line, protocol, ports, address, to_ports))
    fallbacks: list[Fallback] = []
    for family in Family:
        if draw(st.booleans()):
            fallbacks.append(Fallback(len(redirects) + len(fallbacks) + 1, draw(DESTINATIONS[family])))
    return Ruleset(tuple(redirects), tuple(fallbacks))


def numberless(rules: Ruleset) -> tuple[list[tuple[object, ...]], list[Address]]:
    """What rules say, without the lines on which they say it."""
    said = [(r.protocol, r.ports, r.address, r.to_ports) for r in rules.redirects]
    return list(said), [f.address for f in rules.fallbacks]


NUMBERS = st.one_of(
    PORTS.map(str),
    st.sampled_from(
        ["0", "00", "0443", "65535", "65536", "18446744073709551617", "-1", "+1", "1.5", "1e3", "0x50", "٤٤٣"]
    ),
    st.integers().map(str),
)
ADDRESSES = st.one_of(
    DESTINATIONS4.map(str),
    DESTINATIONS6.map(str),
    st.sampled_from(
        [
            "010.0.0.1",
            "999.1.1.1",
            "1.2.3",
            "1.2.3.4.5",
            "0.0.0.0",
            "::",
            "::1",
            "127.0.0.1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "fe80::1",
            "fe80::1%eth0",
            "::ffff:1.2.3.4",
            "1:2:3:4:5:6:7:8:9",
            "example.com",
            "192.0.2.46",
        ]
    ),
    st.integers(0, 2**128 - 1).map(lambda number: str(ip_address(number))),
)
RANGES = st.one_of(NUMBERS, st.tuples(NUMBERS, NUMBERS).map("-".join), st.sampled_from(["-", "1-", "-1", "1-2-3"]))
PROTOCOLS = st.sampled_from(["tcp", "udp", "sctp", "TCP", "Udp", "icmp", "6", "tcp/udp"])
SPACES = st.sampled_from([" ", "  ", "\t", " \t "])
NEAR_LINES: SearchStrategy[str] = st.one_of(
    st.builds(
        lambda words, space, tail: space.join(words) + tail,
        st.one_of(
            st.tuples(RANGES, PROTOCOLS, ADDRESSES),
            st.tuples(RANGES, PROTOCOLS, ADDRESSES, RANGES),
            st.tuples(ADDRESSES),
            st.lists(st.one_of(RANGES, PROTOCOLS, ADDRESSES), max_size=6).map(tuple),
        ),
        SPACES,
        st.sampled_from(["", "\r", " # comment", "\t#", "#not a comment"]),
    ),
    st.sampled_from(["", "#", "# comment", "   ", "\r"]),
)
#: No NUL and no lone line feed is left out: a file can hold them. Surrogates are what os.environ makes of bad UTF-8.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
TEXTS = st.one_of(st.lists(NEAR_LINES, max_size=12).map("\n".join), ANY_TEXT)
