"""The compiled rules, walked as Squid walks them, decide exactly as the lines taken one by one."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from egress_router.config.embedded_ipv4 import is_isatap
from egress_router.policy.clients import for_client
from egress_router.policy.compile import compile_policy
from egress_router.policy.compiled import CompiledPolicy, Rule
from egress_router.policy.evaluate import evaluate, literal_address
from egress_router.policy.ranges import MAPPED_LAST, TOP, Span, normal
from egress_router.policy.values import MAPPED, NOWHERE, Address, Decision, to_number
from tests.http_proxy.unit.requests import Proportions, policies, resolutions, world
from tests.http_proxy.unit.strategies import CLIENTS, NAMES, OWN, Request, parse, policy_texts, requests, section_texts
from tests.support.examples import examples

CLUSTER = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def squid_decides(compiled: CompiledPolicy, request: Request, client: Address = CLIENTS[0]) -> bool:
    """What Squid does: first rule that matches; a set of addresses matches when any address is inside."""
    host, addresses, port = request
    for alone in compiled.names_alone:
        if is_from(client, alone.clients) and not any(under(host, name) for names in alone.names for name in names):
            return False
    numbers = [to_number(address) for address in addresses]
    if any(number in NOWHERE for number in numbers):
        return False
    isatap = {to_number(address) for address in addresses if is_isatap(address)}
    if isatap - {first for first, _ in compiled.isatap}:
        return False
    for rule in compiled.rules:
        if port in rule.ports and is_from(client, rule.clients) and rule_matches(rule, host, numbers):
            return rule.decision is Decision.ALLOW
    return False


def is_from(client: Address, clients: tuple[Span, ...] | None) -> bool:
    return clients is None or any(first <= to_number(client) <= last for first, last in clients)


def under(host: str, name: str) -> bool:
    return literal_address(host) is None and (host == name or (name[0] == "." and ("." + host).endswith(name)))


def rule_matches(rule: Rule, host: str, numbers: list[int]) -> bool:
    if rule.everything:
        return True
    if rule.names:
        return any(under(host, name) for name in rule.names)
    inside = any(a <= n <= b for line in rule.addresses for a, b in line.ranges for n in numbers)
    return inside and not any(a <= n <= b for a, b in rule.outside for n in numbers)


PROPORTIONS = Proportions()


def agrees(compiled: CompiledPolicy, request: Request, allowed: bool, client: Address = CLIENTS[0]) -> bool:
    host, addresses, port = request
    literal = literal_address(host)
    return squid_decides(compiled, (host, (literal,) if literal else addresses, port), client) == allowed


# As many whatever the run: the next test checks what was asked.
@settings(max_examples=50, derandomize=True)
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


@examples(60)
@given(policy_texts(), st.lists(requests, min_size=5, max_size=20))
@example("192.0.2.1\n!a.com\n198.51.100.7", [("a.com", (), 80)])
def test_compiled_is_the_reference_for_any_policy(text: str, asked: list[Request]) -> None:
    policy = parse(text)
    compiled = compile_policy(policy, OWN)
    for request in asked:
        host, addresses, port = request
        assert agrees(compiled, request, evaluate(policy, host, port, addresses, OWN).allowed), (request, compiled)


@examples(60)
@given(policy_texts(), st.lists(requests, min_size=5, max_size=20))
def test_names_that_are_denied_by_name_need_no_look_up(text: str, asked: list[Request]) -> None:
    policy = parse(text)
    compiled = compile_policy(policy)
    for host, addresses, port in asked:
        for alone in compiled.names_alone:
            if not any(under(host, name) for names in alone.names for name in names):
                assert not evaluate(policy, host, port, addresses).allowed


@examples(50)
@given(section_texts(), st.lists(requests, min_size=3, max_size=8))
@example("[from 10.1.0.0/16]\n127.0.0.1", [("127.0.0.1", (), 80), ("a.com", (ip_address("127.0.0.1"),), 80)])
@example("10.0.0.0/8\n[from 10.1.0.0/16]\n!a.com\n*", [("a.com", (ip_address("10.1.2.3"),), 80), ("b.com", (), 80)])
def test_every_client_has_the_lines_of_its_sections(text: str, asked: list[Request]) -> None:
    policy = parse(text)
    compiled = compile_policy(policy, OWN, CLUSTER)
    for client in CLIENTS:
        plain = for_client(policy, client)
        for request in asked:
            host, addresses, port = request
            allowed = evaluate(plain, host, port, addresses, OWN, CLUSTER).allowed
            assert agrees(compiled, request, allowed, client), (client, request, compiled)


def test_the_size_is_linear_with_sections() -> None:
    everybody = [f"{'!' if number % 2 else ''}10.{number // 256}.{number % 256}.1" for number in range(10_000)]
    sections = [f"[from 10.9.{number}.0/24]\nteam{number}.example.com" for number in range(200)]
    compiled = compile_policy(parse("\n".join([*everybody, *sections])))
    assert len([rule for rule in compiled.rules if rule.clients is None]) <= 7
    assert len([rule for rule in compiled.rules if rule.clients is not None]) == 200


def test_alternating_lines_are_two_rules() -> None:
    lines = [f"{'!' if number % 2 else ''}host{number}.example.com" for number in range(1000)]
    rules = [rule for rule in compile_policy(parse("\n".join(lines))).rules if rule.names]
    assert [(rule.decision.value, len(rule.names)) for rule in rules] == [("deny", 500), ("allow", 500)]


def test_exceptions_nest() -> None:
    text = "c.b.a.com\n!*.b.a.com\n*.a.com\n!*.com\n*"
    rules = [rule for rule in compile_policy(parse(text)).rules if not rule.addresses]
    assert [rule.names or "*" for rule in rules] == [("c.b.a.com",), (".b.a.com",), (".a.com",), (".com",), "*"]


@pytest.mark.parametrize(
    ("policy", "host", "allowed"),
    [
        ("!10.42.253.0/24\n*", "64:ff9b::a2a:fd01", False),
        ("!10.42.253.0/24\n*", "64:ff9b::a2a:fe01", True),
        ("!10.42.253.0/24\n*", "64:ff9b:1::a2a:fd01", False),
        ("!10.42.253.0/24\n*", "64:ff9b:1:a2a:fd:100::", False),
        ("!10.42.253.0/24\n*", "2002:a2a:fd01::1", False),
        ("!10.42.253.0/24\n*", "::a2a:fd01", False),
        ("!10.42.253.0/24\n*", "::ffff:0:a2a:fd01", False),
        ("!10.42.253.0/24\n*", "::ffff:10.42.253.1", False),
        ("!10.42.253.0/24\n*", "2001:0:4136:e378:8000:63bf:f5d5:2fe", False),
        ("!10.42.253.0/24\n*", "2001:db8::5efe:10.42.253.1", False),
        ("!10.42.253.0/24:80\n*", "64:ff9b::a2a:fd01", True),
        ("10.42.253.1\n!10.42.253.0/24\n*", "64:ff9b::a2a:fd01", True),
        ("64:ff9b::/96\n!10.42.253.0/24\n*", "64:ff9b::a2a:fd01", True),
        ("*", "64:ff9b::7f00:1", False),
        ("*", "2002:a9fe:a9fe::1", False),
        ("*", "::169.254.169.254", False),
        ("*", "64:ff9b:1:ffff::a9fe:a9fe", False),
        ("*", "2001:db8:9::200:5efe:127.0.0.1", False),
        ("2001:db8:9::200:5efe:127.0.0.1", "2001:db8:9::200:5efe:127.0.0.1", True),
        ("64:ff9b::7f00:1\n*", "64:ff9b::7f00:1", True),
        ("64:ff9b::/96\n*", "64:ff9b::7f00:1", False),
        ("203.0.113.0/24", "64:ff9b::cb00:7119", False),
    ],
)
def test_addresses_that_carry_a_denied_ipv4_address(policy: str, host: str, allowed: bool) -> None:
    compiled, address = compile_policy(parse(policy)), ip_address(host)
    assert evaluate(parse(policy), host, 443).allowed is allowed
    literal = literal_address(host)
    assert literal
    assert squid_decides(compiled, (host, (literal,), 443)) is allowed
    # A name that resolves there, beside an address that is nobody's business.
    assert evaluate(parse(policy), "a.com", 443, (address,)).allowed is allowed


def test_what_the_routes_send_into_the_cluster_is_closed() -> None:
    cluster = [ip_network("10.128.0.0/14"), ip_network("fd01::/48")]
    for text, host, allowed in [
        ("*", "10.128.0.1", False),
        ("*", "fd01::1", False),
        ("*", "64:ff9b::a80:1", False),
        ("*", "10.132.0.1", True),
        ("10.0.0.0/8\n*", "10.128.0.1", False),
        ("10.128.0.1\n*", "10.128.0.1", True),
        ("10.128.0.1\n*", "10.128.0.2", False),
        ("10.128.0.0/14\n*", "10.128.0.2", True),
        ("!10.128.0.7\n10.128.0.0/14", "10.128.0.7", False),
    ]:
        policy, address = parse(text), ip_address(host)
        assert evaluate(policy, host, 80, cluster=cluster).allowed is allowed, (text, host)
        compiled = compile_policy(policy, cluster=cluster)
        assert squid_decides(compiled, (host, (address,), 80)) is allowed, (text, host)
        assert squid_decides(compiled, ("a.com", (address,), 80)) is allowed, (text, host)


def test_the_size_is_linear() -> None:
    lines = [f"{'!' if number % 2 else ''}10.{number // 256}.{number % 256}.1" for number in range(10_000)]
    rules = compile_policy(parse("\n".join([*lines, "10.0.0.0/8"]))).rules
    assert len(rules) <= 7
    ranges = {embedded: [r for r in rules if r.embedded is embedded] for embedded in (False, True)}
    assert sum(len(line.ranges) for rule in ranges[False] for line in rule.addresses) < 22_000
    # 5,000 denied addresses, in five forms of IPv6 that carry them.
    assert 25_000 <= sum(len(line.ranges) for rule in ranges[True] for line in rule.addresses) < 26_000
    assert sum(len(rule.outside) for rule in rules) < 22_000


EDGES = st.sampled_from([0, MAPPED - 1, MAPPED, MAPPED + 1, MAPPED_LAST - 1, MAPPED_LAST, MAPPED_LAST + 1, TOP])


@given(st.lists(st.tuples(EDGES, EDGES).map(lambda ends: (min(ends), max(ends))), max_size=5))
def test_a_union_of_ranges_has_no_address_twice(ranges: list[tuple[int, int]]) -> None:
    """Also where two begin with the first address of IPv4: Squid leaves out what overlaps."""
    joined = normal(ranges)
    assert all(last < following for (_, last), (following, _) in pairwise(joined))
    for number in (0, MAPPED - 1, MAPPED, MAPPED + 1, MAPPED_LAST, MAPPED_LAST + 1, TOP):
        inside = any(first <= number <= last for first, last in ranges)
        assert any(first <= number <= last for first, last in joined) == inside
