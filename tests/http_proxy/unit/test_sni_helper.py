"""Which names in a ClientHello go with the host of a CONNECT, and the variable that asks for that."""

from __future__ import annotations

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.http_proxy.config import parse_http_settings
from egress_router.http_proxy.squid.sni_helper import agrees


@pytest.mark.parametrize(
    ("host", "sni", "good"),
    [
        ("a.com", "a.com", True),
        ("A.com.", "a.COM", True),
        ("a.com", "b.com", False),
        ("a.com", "x.a.com", False),
        ("a.com", "-", False),
        ("192.0.2.1", "-", True),
        ("192.0.2.1", "192.0.2.1", False),
        ("192.0.2.1", "a.com", False),
        ("[2001:db8::1]", "-", True),
        ("2001:db8::1", "a.com", False),
        ("3221225985", "-", True),
        ("0xc0000201", "-", True),
        ("192.0.2.0x1", "-", True),
        ("192.0.2.0x1", "192.0.2.0x1", False),
        ("0xab.example.com", "0xab.example.com", True),
        ("0xab.example.com", "-", False),
        ("localhost", "localhost", True),
    ],
)
def test_agrees(host: str, sni: str, good: bool) -> None:
    assert agrees(host, sni) is good


@pytest.mark.parametrize(
    ("env", "wanted", "errors"),
    [
        ({}, False, 0),
        ({"CONNECT_SNI": "check"}, True, 0),
        ({"CONNECT_SNI": "OFF"}, False, 0),
        ({"CONNECT_SNI": "on"}, False, 1),
        ({"CONNECT_SNI": "check", "PARENT": "http://proxy:3128"}, True, 1),
    ],
)
def test_the_variable(env: dict[str, str], wanted: bool, errors: int) -> None:
    problems = Problems()
    settings = parse_http_settings(
        Inputs({f"EGRESS_HTTP_PROXY_{name}": value for name, value in env.items()}), problems
    )
    assert (settings.connect_sni, len(problems.errors)) == (wanted, errors)
