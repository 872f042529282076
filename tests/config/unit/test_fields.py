"""Single values: what is read, and what is said about what is not."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.values import HostName, PortRange
from tests.support.strategies import ADDRESSES, ANY_TEXT, NUMBERS, RANGES

READERS: list[Callable[[str], object]] = [
    fields.port,
    fields.port_range,
    fields.address,
    fields.interface_address,
    fields.network,
    fields.interface_name,
]


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("443", 443), ("65535", 65535)])
def test_port(text: str, value: int) -> None:
    assert fields.port(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "00",
        "0443",
        "65536",
        "99999",
        "100000",
        "18446744073709551617",
        "18446744073709552059",
        "-1",
        "+80",
        "8O",
        "0x50",
        "1_000",
        "80.0",
        "1e3",
        " 80",
        "80\n",
        "٨٠",
        "８０",
        "²",
        "9" * 5000,
    ],
)
def test_not_a_port(text: str) -> None:
    assert isinstance(fields.port(text), Invalid)
    assert isinstance(fields.port_range(text), Invalid)


@pytest.mark.parametrize(
    ("text", "value"), [("80", PortRange(80, 80)), ("80-80", PortRange(80, 80)), ("1-65535", PortRange(1, 65535))]
)
def test_port_range(text: str, value: PortRange) -> None:
    assert fields.port_range(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("80-79", '"80-79" ends before it starts'),
        ("80-", '"80-" is not a port or a range of ports'),
        ("-80", '"-80" is not a port or a range of ports'),
        ("-", '"-" is not a port or a range of ports'),
        ("080-90", '"080-90" is not a port or a range of ports'),
        ("1-2-3", '"1-2-3" is not a port or a range of ports'),
        ("80:90", '"80:90" is not a port'),
    ],
)
def test_not_a_range(text: str, message: str) -> None:
    assert fields.port_range(text) == Invalid(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", '"" is not an IP address'),
        ("999.1.1.1", '"999.1.1.1" is not an IP address'),
        ("1.2.3", '"1.2.3" is not an IP address'),
        ("3405803801", '"3405803801" is not an IP address'),
        ("010.0.0.1", '"010.0.0.1" is not an IP address: a part has a leading zero, which some programs read as octal'),
        ("1.2.3.4/24", '"1.2.3.4/24" is not an IP address'),
        ("2001:db8::1::2", '"2001:db8::1::2" is not an IP address'),
        ("[2001:db8::1]", '"[2001:db8::1]" is not an IP address'),
        ("::ffff:010.0.0.1", '"::ffff:010.0.0.1" is not an IP address'),
        ("fe80::1%eth0", '"fe80::1%eth0" has a zone index'),
        ("::ffff:203.0.113.25", '"::ffff:203.0.113.25" is an IPv4-mapped address; write 203.0.113.25'),
        ("example.com", '"example.com" is not an IP address'),
        ("\x1b[2Jx", '"\\x1b[2Jx" is not an IP address'),
        ("١.2.3.4", '"١.2.3.4" is not an IP address'),
    ],
)
def test_not_an_address(text: str, message: str) -> None:
    assert fields.address(text) == Invalid(message)


@pytest.mark.parametrize("text", ["203.0.113.25", "0.0.0.0", "2001:db8::25", "2001:DB8:0:0::25", "::"])
def test_address(text: str) -> None:
    assert fields.address(text) == ip_address(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0.0.0.0", "the unspecified address"),
        ("::", "the unspecified address"),
        ("224.0.0.1", "a multicast address"),
        ("239.255.255.255", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("127.0.0.1", "a loopback address"),
        ("127.255.255.254", "a loopback address"),
        ("::1", "a loopback address"),
        ("255.255.255.255", "the broadcast address"),
        ("203.0.113.25", None),
        ("169.254.20.10", None),
        ("2001:db8::", None),
    ],
)
def test_not_a_host(text: str, kind: str | None) -> None:
    assert fields.not_a_host(ip_address(text)) == kind


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("192.0.2.46", "192.0.2.46/32"),
        ("192.0.2.46/24", "192.0.2.46/24"),
        ("192.0.2.46/1", "192.0.2.46/1"),
        ("2001:db8::46", "2001:db8::46/128"),
        ("2001:db8::46/64", "2001:db8::46/64"),
    ],
)
def test_interface_address(text: str, value: str) -> None:
    assert fields.interface_address(text) == ip_interface(value)


@pytest.mark.parametrize(
    "length", ["33", "0", "", "024", "-1", "+8", "255.255.255.0", "24/24", " 24", "18446744073709551640", "٢٤"]
)
def test_not_a_length(length: str) -> None:
    expected = Invalid(f'"/{length}" is not a prefix length from /1 to /32')
    assert fields.interface_address(f"192.0.2.46/{length}") == expected


def test_ipv6_lengths() -> None:
    assert fields.interface_address("2001:db8::1/129") == '"/129" is not a prefix length from /1 to /128'
    assert fields.network("2001:db8::/129") == '"/129" is not a prefix length from /0 to /128'


@pytest.mark.parametrize(
    ("text", "value"),
    [("10.128.0.0/14", "10.128.0.0/14"), ("10.0.0.1", "10.0.0.1/32"), ("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0")],
)
def test_network(text: str, value: str) -> None:
    assert fields.network(text) == ip_network(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.1.2.3/14", '"10.1.2.3/14" has bits set behind its prefix; write 10.0.0.0/14'),
        ("2001:db8::1/64", '"2001:db8::1/64" has bits set behind its prefix; write 2001:db8::/64'),
        ("10.0.0.0/33", '"/33" is not a prefix length from /0 to /32'),
        ("10.0.0.0/255.0.0.0", '"/255.0.0.0" is not a prefix length from /0 to /32'),
        (
            "010.0.0.0/8",
            '"010.0.0.0" is not an IP address: a part has a leading zero, which some programs read as octal',
        ),
    ],
)
def test_not_a_network(text: str, message: str) -> None:
    assert fields.network(text) == Invalid(message)


@pytest.mark.parametrize("text", ["eth0", "macvlan0", "net1", "bond0.100", "br-ex", "if_1", "a", "x" * 15, "veth1@if2"])
def test_interface_name(text: str) -> None:
    assert fields.interface_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 16,
        ".",
        "..",
        "a/b",
        "a:b",
        "a b",
        "all",
        "default",
        "-o",
        "eth*",
        "eth+",
        "!eth0",
        'a"b',
        "a\\b",
        "eth%d",
        "ë",
        "a\n",
        "a;b",
        "{",
        "\udcff",
    ],
)
def test_not_an_interface_name(text: str) -> None:
    """What nft(8), iptables(8) or the kernel's sysctl tree would take for something else is refused."""
    assert isinstance(fields.interface_name(text), Invalid)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: getattr(reader, "__name__", ""))
@given(text=st.one_of(ANY_TEXT, RANGES, ADDRESSES, st.tuples(ADDRESSES, NUMBERS).map("/".join)))
def test_no_text_makes_a_traceback_and_what_is_read_round_trips(reader: Callable[[str], object], text: str) -> None:
    value = reader(text)
    if isinstance(value, Invalid):
        assert value.isprintable()
        assert value.startswith('"')
    else:
        assert reader(str(value)) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bücher.Example.COM.", "xn--bcher-kva.example.com."),
        ("BÜCHER。example", "xn--bcher-kva.example"),
        ("www.中文.ＣＯＭ", "www.xn--fiq228c.com"),
        ("_db._tcp.bücher.example", "_db._tcp.xn--bcher-kva.example"),
    ],
)
def test_an_international_name_is_encoded_label_by_label(text: str, expected: str) -> None:
    assert fields.host_name(text) == HostName(expected)


@pytest.mark.parametrize(
    "text", ["bücher..example", "ü" * 60 + ".example", "bücher.-a.example", "☃.example", "bücher.a b", "bücher.例外。1"]
)
def test_what_is_no_international_name_is_refused(text: str) -> None:
    assert isinstance(fields.host_name(text), Invalid)
