"""Nameservers of resolv.conf(5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.dns.resolv_conf import SearchPath, nameservers, parse_hosts, parse_resolv_conf
from tests.support.strategies import ADDRESSES, ANY_TEXT

TEXT = """\
# nameserver 192.0.2.99
; nameserver 192.0.2.98
search ns.svc.cluster.example svc.cluster.example
nameserver 10.96.0.10
nameserver\t2001:db8:96::a
nameserver fe80::1%eth0
nameserver 10.96.0.10
nameserver
nameserver dns.example.com
nameserver 127.0.0.53
nameserver 0.0.0.0
nameserver 169.254.20.10 trailing
nameservers 192.0.2.97
options ndots:5
"""


def test_nameservers() -> None:
    """Three lines count at most, the one that repeats a server too."""
    found = [str(address) for address in nameservers(TEXT)]
    assert found == ["10.96.0.10", "2001:db8:96::a", "fe80::1"]


def test_a_bad_line_takes_nothing_else_away() -> None:
    conf = parse_resolv_conf(
        "nameserver dns.example.com\nnameserver 10.0.0.1:53\nnameserver 999.1.1.1\n nameserver 10.0.0.9\n"
        f"nameserver 10.0.0.2 # comment\nsearch {'a' * 64}.example corp.example a..b \u00e4.example .\n"
        "options ndots:5 timeout:1 attempts:3 rotate no-such-option ndots\n"
    )
    assert [str(server) for server in conf.servers] == ["10.0.0.2"]
    assert conf.search == SearchPath(("corp.example",), 5)
    assert (conf.timeout, conf.attempts, conf.rotate) == (1, 3, True)
    assert len(conf.ignored) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("options timeout:0 attempts:0", (1, 1)),
        ("options timeout:99 attempts:99", (30, 5)),
        ("options timeout:2s attempts:x", (2, 1)),
        ("options timeout attempts", (None, None)),
        ("options timeout:3\noptions attempts:4", (3, 4)),
        ("OPTIONS timeout:3", (None, None)),
    ],
)
def test_options(text: str, expected: tuple[int | None, int | None]) -> None:
    conf = parse_resolv_conf(text)
    assert (conf.timeout, conf.attempts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("domain a.example b.example", ("a.example",)),
        ("search a.example\ndomain b.example", ("b.example",)),
        ("domain b.example\nsearch A.example. c.example", ("a.example", "c.example")),
        ("search", ()),
        ("search .", ()),
    ],
)
def test_the_last_search_or_domain_line_counts(text: str, expected: tuple[str, ...]) -> None:
    assert parse_resolv_conf(text).search.domains == expected


def test_the_forms_of_inet_aton_and_zones() -> None:
    conf = parse_resolv_conf("nameserver 10.1\nnameserver 0x0a000002\nnameserver fe80::1%eth0")
    assert [str(server) for server in conf.servers] == ["10.0.0.1", "10.0.0.2", "fe80::1%eth0"]


def test_hosts() -> None:
    found = parse_hosts(
        "127.0.0.1\tlocalhost\n# 192.0.2.1 gone\n203.0.113.25 DB.example.com. db # db2\n2001:db8::25 db\n"
        "999.1.1.1 bad\nonly-a-word\n\n203.0.113.26 db"
    )
    assert [str(address) for address in found["db"]] == ["203.0.113.25", "2001:db8::25", "203.0.113.26"]
    assert [str(address) for address in found["db.example.com"]] == ["203.0.113.25"]
    assert found.keys() == {"localhost", "db", "db.example.com"}


def test_crlf_and_no_end_of_line() -> None:
    assert [str(address) for address in nameservers("nameserver 10.0.0.1\r\nnameserver 10.0.0.2")] == [
        "10.0.0.1",
        "10.0.0.2",
    ]


@given(st.one_of(ANY_TEXT, st.lists(ADDRESSES.map("nameserver {}".format)).map("\n".join)))
def test_no_text_makes_a_traceback(text: str) -> None:
    found = nameservers(text)
    assert len(set(found)) == len(found)


@given(ANY_TEXT)
def test_no_text_of_hosts_makes_a_traceback(text: str) -> None:
    for name, addresses in parse_hosts(text).items():
        assert addresses, name
