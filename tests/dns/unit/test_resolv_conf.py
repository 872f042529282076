"""Nameservers of resolv.conf(5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress_router.dns.resolv_conf import nameservers
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
    found = [str(address) for address in nameservers(TEXT)]
    assert found == ["10.96.0.10", "2001:db8:96::a", "fe80::1", "169.254.20.10"]


def test_crlf_and_no_end_of_line() -> None:
    assert [str(address) for address in nameservers("nameserver 10.0.0.1\r\nnameserver 10.0.0.2")] == [
        "10.0.0.1",
        "10.0.0.2",
    ]


@given(st.one_of(ANY_TEXT, st.lists(ADDRESSES.map("nameserver {}".format)).map("\n".join)))
def test_no_text_makes_a_traceback(text: str) -> None:
    found = nameservers(text)
    assert len(set(found)) == len(found)
