"""EGRESS_HTTP_PROXY_PARENT."""

from __future__ import annotations

import base64
from urllib.parse import quote_from_bytes

import pytest

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.http_proxy.explain import explain_http
from egress_router.http_proxy.parent import Parent, parse_parent
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.config import SHOWN, render_squid
from egress_router.http_proxy.targets import parse_target
from egress_router.policy.compile import compile_policy
from tests.http_proxy.unit.strategies import parse


def read(text: str) -> tuple[Parent | None, list[str]]:
    problems = Problems()
    return parse_parent(Inputs({"EGRESS_HTTP_PROXY_PARENT": text}), problems), [str(one) for one in problems.errors]


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ("http://proxy.example.com:3128", Parent("proxy.example.com", 3128)),
        ("http://Proxy:8080/", Parent("proxy", 8080)),
        ("http://user:password@192.0.2.7:3128\n", Parent("192.0.2.7", 3128, "user", "password")),
        ("http://a%40b:p%25%20%3A@[2001:db8::7]:3128", Parent("2001:db8::7", 3128, "a@b", "p% :")),
        ("http://user@proxy:1", Parent("proxy", 1, "user")),
        ("http://*:p@ss@proxy:1", Parent("proxy", 1, "*", "p@ss")),
        ("http://u:50%off@proxy:1", Parent("proxy", 1, "u", "50%off")),
        ("http://caf%E9:%C3%A9@proxy:1", Parent("proxy", 1, "caf\udce9", "é")),
    ],
)
def test_a_parent(text: str, parent: Parent) -> None:
    assert read(text) == (parent, [])


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128",
        "https://user:geheim@proxy:3128",
        "http://user:geheim@proxy",
        "http://user:geheim@proxy:0",
        "http://user:geheim@proxy:99999",
        "http://user:geheim@:3128",
        "http://user:geheim@a_b..c:3128",
        "http://user:ge/heim@proxy:3128",
        "http://user:geheim@proxy:3128/x",
        "http://:geheim@proxy:3128",
        "http://user:geheim@proxy:3128 http://b:1",
        "http://user:geheim@proxy:3128\nnever_direct deny all",
        "http://user:gehe\x01im@proxy:3128",
        "http://user:ge[heim@proxy:3128",
        "http://user:ge]heim@proxy:3128",
        "http://user:ge?heim@proxy:3128",
        "http://user:ge#heim@proxy:3128",
        "http://us%3Aer:geheim@proxy:3128",
        "http://user:geheim%0d%0aX-Header:1@proxy:3128",
        "http://user:geheim%00@proxy:3128",
        f"http://user:{'geheim' * 1000}@proxy:3128",
    ],
)
def test_no_parent_and_no_password_in_the_message(text: str) -> None:
    parent, errors = read(text)
    assert parent is None
    assert len(errors) == 1
    assert "heim" not in errors[0]
    assert "http://[USER:PASSWORD@]HOST:PORT" in errors[0]


def test_any_byte_of_a_password_comes_out_as_it_went_in() -> None:
    raw = bytes(range(0x20, 0x7F)) + bytes(range(0xA0, 0x100))
    parent, errors = read(f"http://u%E9:{quote_from_bytes(raw, safe='')}@proxy:1")
    assert not errors
    assert parent is not None
    assert base64.b64decode(parent.credentials) == b"u\xe9:" + raw
    assert str(parent) == "proxy:1"


def test_the_secrets_file() -> None:
    problems = Problems()
    file = "EGRESS_HTTP_PROXY_PARENT_FILE"
    found = parse_parent(Inputs({file: "/s"}, {file: SourceText(file, "http://u:p@proxy:3128\n")}), problems)
    assert found == Parent("proxy", 3128, "u", "p")
    assert "'p'" not in repr(found)
    assert "'u'" not in repr(found)
    assert parse_parent(Inputs({file: "/s"}, {file: SourceText(file, "\n")}), problems) is None
    assert len(problems.errors) == 1


def test_the_configuration() -> None:
    settings = HttpSettings(parent=Parent("proxy", 3128, "a b", "p%:"))
    policy = parse("!10.0.0.0/8\nexample.com\n*")
    conf = render_squid(compile_policy(policy), settings)["squid.conf"]
    assert f'request_header_add Proxy-Authorization "Basic {base64.b64encode(b"a b:p%:").decode()}" !trace\n' in conf
    assert " dst " not in conf.replace(" dst -n ", " "), "no name is looked up"
    assert "failed_dns" not in conf
    assert "Basic USER:PASSWORD" in render_squid(compile_policy(policy), settings, SHOWN)["squid.conf"]
    explanation = explain_http(policy, parse_target("http://example.com/"), settings=settings)
    assert explanation.text == 'allowed by line 2 "example.com", and goes on to proxy:3128'
    assert not explanation.depends
    assert not explain_http(policy, parse_target("http://10.1.1.1/"), settings=settings).allowed
