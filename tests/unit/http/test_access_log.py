"""From Squid's raw line to JSON: the line that decided, and nothing that a client wrote in between."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_router.model.http_codes import words
from egress_router.plan.http_compile import compile_policy
from egress_router.proxy.access_log import Translator
from egress_router.proxy.access_log import parse as parse_raw
from tests.unit.http.strategies import parse

POLICY = parse("www.example.com\n!*.example.com\n*.example.org:443\n*.example.org:80")
TRANSLATOR = Translator(POLICY, compile_policy(POLICY))
RAW = "1700000000.123 198.51.100.2 {method} {host} {port} 200 512 7 {rule} {line} {bits} {server} -"
FIELDS = {"method": "GET", "port": "80", "line": "-", "bits": "-", "server": "203.0.113.25"}


def json_of(text: str, translator: Translator = TRANSLATOR) -> str | None:
    raw = parse_raw(text)
    return translator.json(raw, translator.decision(raw)) if raw else None


def translate(host: str, rule: str, translator: Translator = TRANSLATOR, **fields: str) -> dict[str, object]:
    text = json_of(RAW.format(**FIELDS | fields, host=host, rule=rule), translator)
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
    entry = translate(host, rule, port=port)
    assert (entry["decision"], entry["line"]) == (decision, line)
    assert ("reason" in entry) == (line is None)


def test_fields() -> None:
    entry = translate("a%22%0Ab", "default", method="G%0AT")
    assert (entry["host"], entry["method"], entry["time"]) == ('a"\nb', "G\nT", "2023-11-14T22:13:20.123Z")
    assert (entry["client"], entry["status"], entry["bytes"], entry["duration_ms"]) == ("198.51.100.2", 200, 512, 7)


@given(st.text(max_size=80))
def test_anything_else_is_dropped_or_one_line(raw: str) -> None:
    text = json_of(raw)
    assert text is None or "\n" not in text


@given(st.text(max_size=20).map(lambda text: text.replace(" ", "") or "x"))
def test_one_line_of_ascii(host: str) -> None:
    text = json_of(RAW.format(**FIELDS, host=host, rule="default"))
    assert text is None or (text.isascii() and "\n" not in text and json.loads(text))


@settings(max_examples=25, deadline=None)
@given(st.integers(65, 3000), st.data())
def test_every_address_line_of_any_number_is_known(count: int, data: st.DataObject) -> None:
    """One line is told by its word; several never pass for another one; an address that is known is looked up."""
    lines = [f"!10.{number // 256}.{number % 256}.0/24" for number in range(count)]
    policy = parse("\n".join([*lines, "*"]))
    compiled = compile_policy(policy)
    translator = Translator(policy, compiled)
    (rule,) = [number for number, one in enumerate(compiled.rules, start=1) if one.addresses]
    index, other = (data.draw(st.integers(0, count - 1)) for _ in "12")
    spelled = words(count + 1)  # The first is that of the closed addresses.
    noted = ",".join(str(bit) for bit in spelled[index + 1])
    entry = translate("a.example", str(rule), translator, bits=noted, server="-")
    assert (entry["line"], entry["rule"]) == (index + 1, lines[index])
    entry = translate(f"10.{index // 256}.{index % 256}.9", str(rule), translator, server="-")
    assert entry["line"] == index + 1
    if other != index:
        both = "%2C".join(str(bit) for bit in spelled[index + 1] | spelled[other + 1])
        entry = translate("a.example", str(rule), translator, bits=both, server="-")
        assert (entry["line"], entry["reason"]) == (None, "addresses of the name, in several lines")


def test_an_allowed_name_has_the_line_of_the_address_it_went_to() -> None:
    lines = [f"10.{number // 256}.{number % 256}.0/24" for number in range(3000)]
    policy = parse("\n".join(lines))
    compiled = compile_policy(policy)
    rule = next(number for number, one in enumerate(compiled.rules, start=1) if one.decision.value == "allow")
    entry = translate("a.example", str(rule), Translator(policy, compiled), server="10.7.9.200")
    assert (entry["decision"], entry["line"]) == ("allow", 7 * 256 + 9 + 1)
