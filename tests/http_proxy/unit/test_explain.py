"""`explain` in words, and addresses in every spelling."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.http_proxy.explain import explain_http
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.targets import parse_target
from egress_router.policy.evaluate import literal_address
from egress_router.policy.port_lists import parse_ports
from tests.http_proxy.unit.strategies import parse

POLICY = "!perdu.com\n!*.perdu.com\n!10.0.0.0/8\nfree.fr:443,80\n192.0.2.0/24\n!secret.example\n*.example"


@pytest.mark.parametrize(
    ("target", "allowed", "line", "words"),
    [
        ("http://free.fr/", True, 4, 'allowed by line 4 "free.fr:443,80", unless it resolves'),
        ("free.fr:443", True, 4, "that line 3 denies"),
        ("free.fr:8080", False, None, "no line matches, unless every address it resolves to is allowed (line 5)"),
        ("https://www.perdu.com/x", False, 2, 'denied by line 2 "!*.perdu.com"'),
        ("http://192.0.2.7", True, 5, "line 5"),
        ("[2001:db8::1]:443", False, None, "no line matches"),
        ("127.1:80", False, None, "127.0.0.1 is closed: loopback"),
        ("http://secret.example", False, 6, "unless every address it resolves to is allowed (line 5)"),
    ],
)
def test_explain(target: str, allowed: bool, line: int | None, words: str) -> None:
    explanation = explain_http(parse(POLICY), parse_target(target))
    assert (explanation.allowed, explanation.line.number if explanation.line else None) == (allowed, line)
    assert words in explanation.text


def test_explain_with_addresses() -> None:
    policy = parse(POLICY)
    mixed = [ip_address("198.51.100.1"), ip_address("10.9.9.9")]
    explanation = explain_http(policy, parse_target("http://free.fr/"), mixed)
    assert explanation.text == 'denied by line 3 "!10.0.0.0/8" (10.9.9.9)'
    own = explain_http(policy, parse_target("http://free.fr/"), mixed[:1], own=mixed[:1])
    assert own.text == "denied: 198.51.100.1 is closed: the pod's own address"
    ports = HttpSettings(connect_ports=parse_ports("443"))
    assert "CONNECT_PORTS" in explain_http(policy, parse_target("free.fr:80"), settings=ports).text
    assert explain_http(policy, parse_target("http://free.fr:80"), settings=ports).allowed


@pytest.mark.parametrize(
    "target",
    [
        "free.fr",
        "free.fr:0",
        "free.fr:65536",
        "http://",
        "ftp://x/",
        "a b:1",
        "free.fr:+80",
        "free.fr:080",
        "[free.fr]:80",
    ],
)
def test_no_target(target: str) -> None:
    with pytest.raises(ValueError, match=re.escape("http://free.fr/")):
        explain_http(parse(POLICY), parse_target(target))


@pytest.mark.parametrize(
    ("target", "allowed", "words"),
    [
        ("http://example.com../", False, 'denied by line 1 "!example.com"'),
        ("http://EXAMPLE.com./", False, 'denied by line 1 "!example.com"'),
        ("https://example.com../", False, 'denied by line 1 "!example.com"'),
        ("http://user@example.com/", False, 'denied by line 1 "!example.com"'),
        ("http://[example.com]/", False, 'denied by line 1 "!example.com"'),
        ("http://example.com?x", False, 'denied by line 1 "!example.com"'),
        ("http://.example.com/", False, "has an empty label"),
        ("http://example..com/", False, "has an empty label"),
        ("http://free.fr:/", False, "no port from 1 to 65535"),
        ("http://free.fr:0/", False, "no port from 1 to 65535"),
        ("http://free.fr:x/", False, "no port from 1 to 65535"),
        ("http://free.fr:65536/", False, "no port from 1 to 65535"),
        ("http://free.fr:+80/", True, "allowed by line 2"),
        ("http://free.fr:080/", True, "allowed by line 2"),
        ("http://free.fr:80x/", True, "allowed by line 2"),
        ("http://free.fr /", False, "white space"),
        (f"http://{'a' * 64}.example/", True, "allowed by line 2"),
        ("http:///x", False, "no host"),
    ],
)
def test_odd_spellings(target: str, allowed: bool, words: str) -> None:
    explanation = explain_http(parse("!example.com\n*:80,443"), parse_target(target))
    assert words in explanation.text
    assert explanation.allowed is allowed


@given(
    st.lists(st.integers(0, 1 << 33), min_size=1, max_size=5),
    st.lists(st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}"]), min_size=5, max_size=5),
)
def test_literal_is_inet_aton(numbers: list[int], forms: list[str]) -> None:
    text = ".".join(form.format(number) for number, form in zip(numbers, forms, strict=False))
    try:
        expected = socket.inet_ntoa(socket.inet_aton(text))
    except OSError:
        assert literal_address(text) is None
    else:
        assert str(literal_address(text)) == expected
