"""Which tracked connections must end when rules change."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Problems, load_inputs
from egress_router.config.values import Family, HostName, Protocol
from egress_router.net.conntrack import Connection
from egress_router.redirect.connections import Sieve
from egress_router.redirect.destinations import parse_rules
from egress_router.redirect.explain import explain_redirect
from egress_router.redirect.values import Ruleset, Translation

POD = ip_address("198.51.100.2")
SOURCE = ip_address("192.0.2.46")


def rules(text: str) -> Ruleset:
    problems = Problems()
    found = parse_rules(load_inputs({"EGRESS_DESTINATION": text}), {}, problems, required=False, names=True)
    assert not problems.errors
    return found


def translation(text: str, health_port: int | None = None) -> Translation:
    return Translation(
        "macvlan0", "eth0", {Family.IPV4: (POD,)}, {Family.IPV4: SOURCE}, rules(text), {}, health_port=health_port
    )


CONNECTION = Connection(
    protocol=Protocol.TCP,
    address=POD,
    port=8080,
    reply_address=ip_address("203.0.113.26"),
    reply_port=80,
    reply_to=SOURCE,
    translated=True,
    answered=True,
    live=True,
    timeout=100,
    key=b"",
)


@pytest.mark.parametrize(
    ("text", "stale"),
    [
        ("8080 tcp 203.0.113.26 80", False),
        ("8079-8081 tcp 203.0.113.26 79-81", False),
        ("8080 tcp 203.0.113.26", True),
        ("8080 tcp 203.0.113.25 80", True),
        ("8080 udp 203.0.113.26 80", True),
        ("8081 tcp 203.0.113.26 80", True),
        ("203.0.113.26", True),
        ("80 tcp 203.0.113.25\n203.0.113.26", True),
    ],
)
def test_a_connection_stays_where_a_new_one_would_go_the_same_way(text: str, stale: bool) -> None:
    assert Sieve(translation(text)).stale(CONNECTION) is stale


def test_another_source_is_stale() -> None:
    sieve = Sieve(translation("8080 tcp 203.0.113.26 80"))
    assert sieve.stale(replace(CONNECTION, reply_to=ip_address("192.0.2.45")))


def test_a_process_of_the_pod_keeps_its_connections_and_a_rule_gets_flows_that_nobody_answered() -> None:
    own = replace(CONNECTION, translated=False, reply_address=POD, reply_port=8080)
    unanswered = replace(own, answered=False)
    assert not Sieve(translation("80 tcp 203.0.113.26")).stale(unanswered)
    sieve = Sieve(translation("8080 tcp 203.0.113.26"))
    assert not sieve.stale(own)
    assert sieve.stale(unanswered)


def test_the_health_port_is_not_the_fallbacks() -> None:
    probe = replace(CONNECTION, port=9909, translated=False, answered=False, reply_address=POD, reply_port=9909)
    assert Sieve(translation("203.0.113.26")).stale(probe)
    assert not Sieve(translation("203.0.113.26", health_port=9909)).stale(probe)


NAME = HostName("api.example.com")


@pytest.mark.parametrize(
    ("text", "mark", "stale"),
    [
        ("8080 tcp api.example.com 80", NAME.mark, False),
        ("8000-8100 tcp api.example.com 1-101", NAME.mark, True),
        ("8080 tcp api.example.com", NAME.mark, True),
        ("8080 udp api.example.com 80", NAME.mark, True),
        ("8080 tcp other.example.com 80", NAME.mark, True),
        ("8080 tcp other.example.com 80", 0, True),
        ("8080 tcp 203.0.113.26 80", NAME.mark, False),
        ("8080 tcp 203.0.113.25 80", NAME.mark, True),
        ("8080 tcp answered.example.com 80", NAME.mark, False),
        ("80 tcp 203.0.113.25", NAME.mark, True),
    ],
)
def test_a_connection_of_a_name_stays_with_its_name_wherever_the_name_is_now(text: str, mark: int, stale: bool) -> None:
    answers = {NAME: (ip_address("203.0.113.99"),), HostName("answered.example.com"): (ip_address("203.0.113.26"),)}
    sieve = Sieve(replace(translation(text), answers=answers))
    assert sieve.stale(replace(CONNECTION, mark=mark)) is stale


def test_a_fallback_to_a_name() -> None:
    sieve = Sieve(translation("80 tcp 203.0.113.25\napi.example.com"))
    ours = replace(CONNECTION, reply_port=8080, mark=NAME.mark)
    assert not sieve.stale(ours)
    assert sieve.stale(replace(ours, mark=NAME.mark + 1))
    assert sieve.stale(replace(ours, reply_to=ip_address("192.0.2.45")))
    assert sieve.stale(replace(ours, port=80, reply_port=80))


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3), st.sampled_from(["tcp", "udp"])), max_size=12),
    st.booleans(),
    st.integers(1, 65),
    st.sampled_from([Protocol.TCP, Protocol.UDP]),
)
def test_it_agrees_with_explain(
    starts: list[tuple[int, int, str]], fallback: bool, port: int, protocol: Protocol
) -> None:
    taken: set[tuple[int, str]] = set()
    lines = []
    for first, more, name in starts:
        ports = {(number, name) for number in range(first, first + more + 1)}
        if not ports & taken:
            taken |= ports
            lines.append(f"{first}-{first + more} {name} 203.0.113.{first} {first + 100}-{first + more + 100}")
    text = "\n".join([*lines, *(["203.0.113.250"] if fallback else [])])
    present = translation(text) if text else replace(translation("1 tcp 203.0.113.1"), rules=Ruleset())
    wanted = explain_redirect(present.rules, Family.IPV4, protocol, port)
    there = replace(CONNECTION, protocol=protocol, port=port)
    if wanted.address is not None:
        assert not Sieve(present).stale(replace(there, reply_address=wanted.address, reply_port=wanted.to_port))
    assert Sieve(present).stale(replace(there, reply_address=ip_address("203.0.113.251")))
