"""TLS and HTTP by name: the variables, the names that clients ask for, and where connections go."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.fields import Invalid
from egress_router.config.inputs import Inputs, Problems
from egress_router.dns_proxy.by_name.config import ByName
from egress_router.dns_proxy.by_name.router import asked_name
from egress_router.dns_proxy.destinations import parse_dns_proxy

CLIENT = ip_address("10.1.2.3")


def parse(**env: str) -> tuple[ByName | None, list[str], list[str]]:
    problems = Problems()
    variables = {f"EGRESS_{name}": value for name, value in env.items()}
    config = parse_dns_proxy(Inputs(variables), problems, required=True)
    found = config.by_name if config else None
    return found, [str(one) for one in problems.errors], [str(one) for one in problems.warnings]


def test_ports() -> None:
    found, errors, _ = parse(TLS_PROXY_DESTINATION="*")
    assert found
    assert not errors
    assert (found.tls_ports, found.http_ports) == ((443,), (80,))
    found, _, _ = parse(TLS_PROXY_DESTINATION="*", TLS_PROXY_PORTS="443,8443-8445", TLS_PROXY_HTTP_PORTS="off")
    assert found
    assert found.ports == (443, 8443, 8444, 8445)


def test_warnings() -> None:
    _, _, warnings = parse(TLS_PROXY_DESTINATION="a.com:5432\n192.0.2.1\n192.0.2.0/24\nb.com:80-90")
    assert [warning.partition(":")[0] for warning in warnings] == [
        "EGRESS_TLS_PROXY_DESTINATION line 1",
        "EGRESS_TLS_PROXY_DESTINATION line 2",
    ]


@pytest.mark.parametrize(
    ("env", "variable"),
    [
        ({"TLS_PROXY_DESTINATION": ""}, "EGRESS_TLS_PROXY_DESTINATION"),
        ({"TLS_PROXY_PORTS": "443"}, "EGRESS_TLS_PROXY_DESTINATION"),
        ({"TLS_PROXY_DESTINATION": "*", "TLS_PROXY_PORTS": "1-65"}, "EGRESS_TLS_PROXY_PORTS"),
        ({"TLS_PROXY_DESTINATION": "*", "TLS_PROXY_PORTS": "80"}, "EGRESS_TLS_PROXY_HTTP_PORTS"),
        ({"TLS_PROXY_DESTINATION": "*", "DNS_PROXY_DESTINATION": "443 a.com"}, "EGRESS_DNS_PROXY_DESTINATION line 1"),
        ({"TLS_PROXY_DESTINATION": "*", "HEALTH_PORT": "443"}, "EGRESS_HEALTH_PORT"),
        ({"TLS_PROXY_DESTINATION": "*\na.com"}, "EGRESS_TLS_PROXY_DESTINATION line 1"),
    ],
)
def test_what_is_wrong(env: dict[str, str], variable: str) -> None:
    found, errors, _ = parse(**env)
    assert found is None
    assert any(error.startswith(variable) for error in errors), errors


@pytest.mark.parametrize(
    ("asked", "http", "name"),
    [
        (b"a.example.com", False, "a.example.com"),
        (b"A.Example.COM.", False, "a.example.com"),
        (b"xn--bcher-kva.example", False, "xn--bcher-kva.example"),
        (b"_x.example", False, "_x.example"),
        (b"single", False, "single"),
        (b"a.example.com:80", True, "a.example.com"),
        (b"a.example.com:", True, "a.example.com"),
        (b"", False, None),
        (b"", True, None),
        (b"a.example.com:443", False, None),
        (b"a.example.com:81", True, None),
        (b"a.example.com:80:80", True, None),
        (b"a.example.com, b.example.com", True, None),
        (b"192.0.2.1", False, None),
        (b"192.0.2.1:80", True, None),
        (b"0xC0000201", False, None),
        (b"127.1", False, None),
        (b"2001:db8::1", False, None),
        (b"[2001:db8::1]:80", True, None),
        (b".", False, None),
        (b"..", False, None),
        (b".a.com", False, None),
        (b"a..com", False, None),
        (b"a.com..", False, None),
        (b"*.a.com", False, None),
        (b"a.com\n", False, None),
        (b"a.com\x00", False, None),
        (b"user@a.com", True, None),
        (b"a.com/b", True, None),
        (b"b\xc3\xbccher.example", False, None),
        (b"a" * 64 + b".com", False, None),
        (b"a." * 127 + b"com", False, None),
        (b"a.1", False, None),
    ],
)
def test_names_that_clients_ask_for(asked: bytes, http: bool, name: str | None) -> None:
    found = asked_name(asked, 80, http=http)
    assert isinstance(found, Invalid) if name is None else found == name


@given(st.binary(max_size=80), st.booleans())
def test_whatever_is_asked_for_is_a_name_or_refused(asked: bytes, http: bool) -> None:
    found = asked_name(asked, 80, http=http)
    assert isinstance(found, Invalid) or all(c in "abcdefghijklmnopqrstuvwxyz0123456789-_." for c in found)
