"""The compiled rules, walked as Squid walks them, decide exactly as the lines taken one by one."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from egress_router.http_proxy.policy.compile import compile_policy
from egress_router.http_proxy.policy.evaluate import evaluate, literal_address
from egress_router.http_proxy.policy.values import NOWHERE, CompiledPolicy, Decision, Rule, to_number
from tests.http_proxy.unit.requests import Proportions, policies, resolutions, world
from tests.http_proxy.unit.strategies import NAMES, OWN, Request, parse, policy_texts, requests


def squid_decides(compiled: CompiledPolicy, request: Request) -> bool:
    """What Squid does: first rule that matches; a set of addresses matches when any address is inside."""
    host, addresses, port = request
    numbers = [to_number(address) for address in addresses]
    if any(number in NOWHERE for number in numbers):
        return False
    for rule in compiled.rules:
        if port in rule.ports and rule_matches(rule, host, numbers):
            return rule.decision is Decision.ALLOW
    return False


def rule_matches(rule: Rule, host: str, numbers: list[int]) -> bool:
    if rule.everything:
        return True
    if rule.names:
        return literal_address(host) is None and any(
            host == name or (name[0] == "." and ("." + host).endswith(name)) for name in rule.names
        )
    inside = any(a <= n <= b for line in rule.addresses for a, b in line.ranges for n in numbers)
    return inside and not any(a <= n <= b for a, b in rule.outside for n in numbers)


PROPORTIONS = Proportions()


def agrees(compiled: CompiledPolicy, request: Request, allowed: bool) -> bool:
    host, addresses, port = request
    literal = literal_address(host)
    return squid_decides(compiled, (host, (literal,) if literal else addresses, port)) == allowed


@settings(max_examples=50, deadline=None, derandomize=True)
@given(policies, resolutions)
def test_compiled_is_the_reference(text: str, resolved: list[list[str]]) -> None:
    policy = parse(text)
    compiled = compile_policy(policy, OWN)
    for request, allowed in PROPORTIONS.choose(policy, world(dict(zip(NAMES, resolved, strict=True))), OWN):
        assert agrees(compiled, request, allowed), (request, allowed, compiled)


def test_the_reference_was_asked_about_everything() -> None:
    if not PROPORTIONS.counted:
        # Alone, or in another process: then it asks for itself.
        test_compiled_is_the_reference()
    PROPORTIONS.check()


@settings(max_examples=60, deadline=None)
@given(policy_texts(), st.lists(requests, min_size=5, max_size=20))
@example("192.0.2.1\n!a.com\n198.51.100.7", [("a.com", (), 80)])
def test_compiled_is_the_reference_for_any_policy(text: str, asked: list[Request]) -> None:
    policy = parse(text)
    compiled = compile_policy(policy, OWN)
    for request in asked:
        host, addresses, port = request
        assert agrees(compiled, request, evaluate(policy, host, port, addresses, OWN).allowed), (request, compiled)


@settings(max_examples=60, deadline=None)
@given(policy_texts(), st.lists(requests, min_size=5, max_size=20))
def test_names_that_are_denied_by_name_need_no_look_up(text: str, asked: list[Request]) -> None:
    policy = parse(text)
    compiled = compile_policy(policy)
    if compiled.allowed_names is None:
        return
    for host, addresses, port in asked:
        if not any(host == name or (name[0] == "." and ("." + host).endswith(name)) for name in compiled.allowed_names):
            assert not evaluate(policy, host, port, addresses).allowed


def test_alternating_lines_are_two_rules() -> None:
    lines = [f"{'!' if number % 2 else ''}host{number}.example.com" for number in range(1000)]
    rules = [rule for rule in compile_policy(parse("\n".join(lines))).rules if rule.names]
    assert [(rule.decision.value, len(rule.names)) for rule in rules] == [("deny", 500), ("allow", 500)]


def test_exceptions_nest() -> None:
    text = "c.b.a.com\n!*.b.a.com\n*.a.com\n!*.com\n*"
    rules = [rule for rule in compile_policy(parse(text)).rules if not rule.addresses]
    assert [rule.names or "*" for rule in rules] == [("c.b.a.com",), (".b.a.com",), (".a.com",), (".com",), "*"]


def test_the_size_is_linear() -> None:
    lines = [f"{'!' if number % 2 else ''}10.{number // 256}.{number % 256}.1" for number in range(10_000)]
    rules = compile_policy(parse("\n".join([*lines, "10.0.0.0/8"]))).rules
    assert len(rules) <= 5
    assert sum(len(line.ranges) for rule in rules for line in rule.addresses) < 22_000
    assert sum(len(rule.outside) for rule in rules) < 22_000
