"""From Squid's raw line to JSON: the line that decided, and nothing that a client wrote in between."""

from __future__ import annotations

import json
import os
from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.http_proxy.squid.access_log import AccessLog, RequestStats
from egress_router.http_proxy.squid.errors import failure
from egress_router.http_proxy.squid.log_line import CLOSED, RuleAttributor, entry
from egress_router.http_proxy.squid.log_line import parse as parse_raw
from egress_router.policy.codes import numbered_ranges
from egress_router.policy.compile import compile_policy
from egress_router.policy.values import Policy
from tests.http_proxy.unit.strategies import parse
from tests.http_proxy.unit.which import answers

POLICY = parse("www.example.com\n!*.example.com\n*.example.org:443\n*.example.org:80")
TRANSLATOR = RuleAttributor(POLICY, compile_policy(POLICY))
RAW = (
    "1700000000.123 512 7 40000 198.51.100.2 {method} {host} {port} 200 {rule} {at} {server} {error} {detail} TCP_MISS "
    "{failed}"
)
FIELDS = {
    "method": "GET",
    "port": "80",
    "at": "-",
    "server": "203.0.113.25",
    "error": "-",
    "detail": "-",
    "failed": "-",
}


def json_of(text: str, attributor: RuleAttributor = TRANSLATOR) -> str | None:
    raw = parse_raw(text)
    return entry(raw, attributor.decision(raw), failure(raw)) if raw else None


def translate(host: str, rule: str, attributor: RuleAttributor = TRANSLATOR, **fields: str) -> dict[str, object]:
    text = json_of(RAW.format(**FIELDS | fields, host=host, rule=rule), attributor)
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


def rule_about(policy: Policy, decision: str) -> int:
    rules = compile_policy(policy).rules
    return next(n for n, one in enumerate(rules, start=1) if one.addresses and one.decision.value == decision)


DENIED = [f"!10.{number // 256}.{number % 256}.0/25" for number in range(3000)]


@pytest.mark.parametrize(
    ("addresses", "line"),
    [
        ("10.7.9.1", 7 * 256 + 10),
        ("10.7.9.1 10.7.9.2", 7 * 256 + 10),
        ("10.7.9.1 10.0.1.1 10.3.3.3", 2),
        ("10.7.9.1 198.51.100.1", 7 * 256 + 10),
        ("10.11.9.1 10.7.9.1 10.3.3.3 10.3.4.3", 3 * 256 + 4),
        ("10.0.1.1 127.0.0.1", None),
    ],
)
def test_a_name_denied_by_its_addresses_has_the_first_of_their_lines(addresses: str, line: int | None) -> None:
    policy = parse("\n".join([*DENIED, "*"]))
    compiled = compile_policy(policy)
    rule = rule_about(policy, "deny")
    told = answers(numbered_ranges(compiled)[rule], [ip_address(text) for text in addresses.split()])
    entry = translate("a.example", str(rule), RuleAttributor(policy, compiled), at="%2C".join(told), server="-")
    assert (entry["decision"], entry["line"], entry.get("reason")) == ("deny", line, None if line else CLOSED)


def test_the_line_of_a_literal_address_is_the_first_about_it() -> None:
    """Whatever Squid matched: rules of names and of everything come before those of addresses."""
    policy = parse("10.0.0.0/9\n!10.0.0.0/8\n[2001:db8::]:443\n*")
    attributor = RuleAttributor(policy, compile_policy(policy))
    everything = str(next(n for n, one in enumerate(compile_policy(policy).rules, start=1) if one.everything))
    asked = [("10.1.1.1", "80", 1), ("2001:db8::", "443", 3), ("[2001:db8::]", "80", 4), ("0x0a010101", "80", 1)]
    for host, port, line in asked:
        entry = translate(host, everything, attributor, port=port)
        assert (entry["decision"], entry["line"]) == ("allow", line), host
    denied = translate("10.128.0.1", str(rule_about(policy, "deny")), attributor, server="-")
    assert (denied["decision"], denied["line"]) == ("deny", 2)
    assert translate("127.1", "default", attributor, server="-")["reason"] == CLOSED


def test_what_the_second_look_denied_is_logged_as_denied() -> None:
    """DNS gave Squid another address to connect to than it was asked about."""
    policy = parse("!10.0.0.0/8\n*.example")
    compiled = compile_policy(policy)
    attributor = RuleAttributor(policy, compiled)
    by_name = str(next(n for n, one in enumerate(compiled.rules, start=1) if one.names))
    assert translate("a.example", by_name, attributor, server="203.0.113.9")["decision"] == "allow"
    entry = translate("a.example", by_name, attributor, server="10.1.1.1")
    assert (entry["decision"], entry["line"]) == ("deny", 1)
    entry = translate("a.example", by_name, attributor, server="127.0.0.1")
    assert (entry["decision"], entry["line"], entry["reason"]) == ("deny", None, CLOSED)


def test_reasons_when_there_is_no_line() -> None:
    policy = parse("10.0.0.0/8\n192.0.2.0/24\n!*.example")
    attributor = RuleAttributor(policy, compile_policy(policy))
    entry = translate("a.test", str(rule_about(policy, "allow")), attributor, server="-")
    assert (entry["decision"], entry["line"], entry["reason"]) == ("allow", None, "answered without a connection")
    gone = parse_raw(RAW.format(**FIELDS, host="a.test", rule="-").replace(" 200 ", " 0 "))
    assert gone
    assert attributor.decision(gone).members["reason"] == "the client left before it was judged"


def test_an_allowed_name_has_the_line_of_the_address_it_went_to() -> None:
    lines = [f"10.{number // 256}.{number % 256}.0/24" for number in range(3000)]
    policy = parse("\n".join(lines))
    compiled = compile_policy(policy)
    rule = next(number for number, one in enumerate(compiled.rules, start=1) if one.decision.value == "allow")
    entry = translate("a.example", str(rule), RuleAttributor(policy, compiled), server="10.7.9.200")
    assert (entry["decision"], entry["line"]) == ("allow", 7 * 256 + 9 + 1)


class Written:
    """Takes the lines that would go to standard output."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def put(self, lines: list[bytes]) -> bool:
        self.lines += lines
        return True


NUMBERS = st.tuples(st.integers(0, 10**10), st.integers(0, 20_000), st.integers(1024, 65535))
ASKED = st.sampled_from(
    [
        {"host": "www.example.com", "rule": rule_number("www.example.com")},
        {"host": "other.example", "rule": "default"},
        {"host": "-", "rule": "-", "port": "-"},
        {
            "host": "www.example.com",
            "rule": rule_number("www.example.com"),
            "error": "ERR_CONNECT_FAIL",
            "detail": "WITH_SERVER",
        },
    ]
)


@given(st.lists(st.tuples(ASKED, NUMBERS), max_size=30))
def test_lines_that_are_alike_are_written_and_counted_each_with_its_numbers(
    asked: list[tuple[dict[str, str], tuple[int, int, int]]],
) -> None:
    """What is worked out once for many lines is what each of them would have had."""
    written, stats = Written(), RequestStats()
    access_log = AccessLog(TRANSLATOR, stats, written)  # type: ignore[arg-type]  # all that is asked of it
    texts = []
    for fields, (size, duration, port) in asked:
        raw = RAW.format(**FIELDS | fields).split(" ")
        raw[1:4] = [str(size), str(duration), str(port)]
        texts.append(" ".join(raw))
    os.write(access_log.write_end, "".join(f"{text}\n" for text in [*texts, "what is not ours"]).encode())
    access_log.finish(20)
    assert [line.decode() for line in written.lines] == [json_of(text) for text in texts]
    found = stats.read()
    parsed = [json.loads(line) for line in written.lines]
    assert found.sent == sum(line["bytes"] for line in parsed)
    assert found.decisions.total() == len(parsed)
    assert found.decisions["allow"] == sum(line["decision"] == "allow" for line in parsed)
    assert found.errors == Counter(line["error"] for line in parsed if "error" in line)
    assert found.destinations == Counter(line["rule"] for line in parsed if "rule" in line)


def test_a_request_during_which_the_clock_was_set_back_took_no_time() -> None:
    written, stats = Written(), RequestStats()
    access_log = AccessLog(TRANSLATOR, stats, written)  # type: ignore[arg-type]  # all that is asked of it
    raw = RAW.format(**FIELDS | {"host": "www.example.com", "rule": rule_number("www.example.com")})
    os.write(access_log.write_end, raw.replace(" 512 7 ", " 512 -3600000 ").encode() + b"\n")
    access_log.finish(20)
    assert [json.loads(line)["duration_ms"] for line in written.lines] == [0]
    assert stats.read().sent == 512
