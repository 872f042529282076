"""From Squid's raw line to JSON: the line that decided, and nothing that a client wrote in between."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.plan.http_compile import compile_policy
from egress_router.proxy.access_log import RawLine, Translator
from egress_router.proxy.access_log import parse as parse_raw
from tests.unit.http.strategies import parse

POLICY = parse("www.example.com\n!*.example.com\n*.example.org:443\n*.example.org:80")
TRANSLATOR = Translator(POLICY, compile_policy(POLICY))
RAW = "1700000000.123 198.51.100.2 {method} {host} {port} 200 512 7 {rule} {line} 203.0.113.25 TCP_MISS -"


def raw_line(text: str) -> RawLine:
    raw = parse_raw(text)
    assert raw is not None
    return raw


def translate(host: str, port: str, rule: str, line: str = "-", method: str = "GET") -> dict[str, object]:
    text = TRANSLATOR.json(raw_line(RAW.format(host=host, port=port, rule=rule, line=line, method=method)))
    assert text is not None
    parsed = json.loads(text)
    assert isinstance(parsed, dict)
    return parsed


def rule_number(name: str) -> str:
    rules = compile_policy(POLICY).rules
    return str(next(number for number, rule in enumerate(rules, start=1) if name in rule.names))


@pytest.mark.parametrize(
    ("host", "port", "rule", "decision", "line"),
    [
        ("www.example.com", "80", rule_number("www.example.com"), "allow", 1),
        ("WWW.example.com.", "80", rule_number("www.example.com"), "allow", 1),
        ("a.example.org", "80", "%d", "allow", 4),
        ("secret.example.com", "80", "default", "deny", 2),
        ("other.example", "80", "default", "deny", None),
        ("x", "80", "manager", "deny", None),
        ("-", "-", "-", "deny", None),
    ],
)
def test_the_line(host: str, port: str, rule: str, decision: str, line: int | None) -> None:
    rules = compile_policy(POLICY).rules
    if rule == "%d":
        rule = str(next(n for n, one in enumerate(rules, start=1) if ".example.org" in one.names and 80 in one.ports))
    entry = translate(host, port, rule)
    assert (entry["decision"], entry["line"]) == (decision, line)
    assert ("reason" in entry) == (line is None)


def test_fields() -> None:
    entry = translate("a%22%0Ab", "80", "default", method="G%0AT")
    assert (entry["host"], entry["method"], entry["time"]) == ('a"\nb', "G\nT", "2023-11-14T22:13:20.123Z")
    assert (entry["client"], entry["status"], entry["bytes"], entry["duration_ms"]) == ("198.51.100.2", 200, 512, 7)


@given(st.text(max_size=80))
def test_anything_else_is_dropped_or_one_line(raw: str) -> None:
    found = parse_raw(raw)
    text = TRANSLATOR.json(found) if found else None
    assert text is None or "\n" not in text


@given(st.text(max_size=20).map(lambda text: text.replace(" ", "") or "x"))
def test_one_line_of_ascii(host: str) -> None:
    raw = parse_raw(RAW.format(host=host, port="80", rule="default", line="-", method="GET"))
    text = TRANSLATOR.json(raw) if raw else None
    assert text is None or (text.isascii() and "\n" not in text and json.loads(text))
