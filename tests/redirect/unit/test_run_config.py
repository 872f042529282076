"""The variables of a router that stays, and when it is ready."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.config.inputs import Problems, load_inputs
from egress_router.daemon.reachability import Reachability
from egress_router.manifests.pod import parse_pod
from egress_router.redirect.run_config import parse_run
from egress_router.redirect.state import State
from egress_router.redirect.values import Check, RunConfig

ENV = {
    "EGRESS_SOURCE": "192.0.2.46",
    "EGRESS_GATEWAY": "192.0.2.1",
    "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n203.0.113.26",
}


def parsed(**env: str) -> tuple[RunConfig | None, Problems]:
    problems = Problems()
    return parse_run(load_inputs({**ENV, **env}), problems), problems


def test_defaults() -> None:
    run, problems = parsed()
    assert run is not None
    assert not problems.errors
    assert not problems.warnings
    assert run.router.health_port == 9909
    assert (run.grace, run.announce_interval, run.probe_interval, run.checks) == (30, 30, 3, ())


def test_values() -> None:
    run, _ = parsed(
        EGRESS_HEALTH_PORT="8080",
        EGRESS_SHUTDOWN_GRACE="2m",
        EGRESS_ANNOUNCE_INTERVAL="0",
        EGRESS_PROBE_INTERVAL="5s",
        EGRESS_CHECK="203.0.113.25:443, 203.0.113.26:80",
        EGRESS_ROUTER_MODE="legacy",
    )
    assert run is not None
    assert (run.router.health_port, run.grace, run.announce_interval, run.probe_interval) == (8080, 120, 0, 5)
    assert run.checks == (Check(ip_address("203.0.113.25"), 443), Check(ip_address("203.0.113.26"), 80))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("EGRESS_HEALTH_PORT", "0", '"0" is not a port'),
        ("EGRESS_HEALTH_PORT", "80", "is claimed by line 1"),
        ("EGRESS_CHECK", "203.0.113.25", "is not a destination"),
        ("EGRESS_CHECK", "2001:db8::1:443", "is not a destination"),
        ("EGRESS_CHECK", "[2001:db8::1]:443", "EGRESS_SOURCE has no IPv6 address"),
        ("EGRESS_CHECK", "name.example:443", "is not a destination"),
        ("EGRESS_PROBE_INTERVAL", "0", "is not between 1 s and"),
        ("EGRESS_ANNOUNCE_INTERVAL", "soon", "is not a duration"),
        ("EGRESS_SHUTDOWN_GRACE", "-1", "is not a duration"),
        ("EGRESS_ROUTER_MODE", "init", "is not for a router that stays"),
        ("EGRESS_ROUTER_MODE", "http-proxy", "is not for a router that stays"),
        ("EGRESS_SOURCE", "192.0.2.256", "is not an IP address"),
    ],
)
def test_what_is_wrong_is_named(variable: str, value: str, said: str) -> None:
    run, problems = parsed(**{variable: value})
    assert run is None
    assert [(problem.variable, said in str(problem)) for problem in problems.errors] == [(variable, True)]


def test_all_problems_come_out_together() -> None:
    run, problems = parsed(EGRESS_GATEWAY="x", EGRESS_CHECK="y", EGRESS_HEALTH_PORT="z")
    assert run is None
    assert {problem.variable for problem in problems.errors} == {"EGRESS_GATEWAY", "EGRESS_CHECK", "EGRESS_HEALTH_PORT"}


@pytest.mark.parametrize("line", ["9909 tcp 203.0.113.25", "9000-10000 tcp 203.0.113.25"])
def test_a_line_that_claims_the_default_port_wins(line: str) -> None:
    run, problems = parsed(EGRESS_DESTINATION=line)
    assert run is not None
    assert run.router.health_port is None
    assert [problem.variable for problem in problems.warnings] == ["EGRESS_HEALTH_PORT"]
    assert parsed(EGRESS_DESTINATION="9909 udp 203.0.113.25")[1].warnings == []


def test_only_a_router_that_stays_has_a_health_port() -> None:
    for mode, port in (("init", None), ("legacy", 9909), ("", 9909)):
        pod = parse_pod(load_inputs({**ENV, "EGRESS_ROUTER_MODE": mode}), Problems())
        assert pod.router is not None
        assert pod.router.health_port == port


def test_one_answer_is_enough_at_first_and_two_are_needed_after_three_misses() -> None:
    gateway = Reachability()
    assert gateway.up is None
    seen: list[bool | None] = []
    for answer in (True, False, False, True, False, False, False, False, True, False, True, True):
        gateway.note(answer=answer)
        seen.append(gateway.up)
    assert seen == [True] * 6 + [False] * 5 + [True]
    lost = Reachability()
    assert [lost.note(answer=False) for _ in range(4)] == [False, False, True, False]


def test_every_reason_is_named() -> None:
    source, gateway = ip_address("192.0.2.46"), ip_address("192.0.2.1")
    state = State("macvlan0", gateways={gateway: Reachability(up=True)})
    assert state.reasons(5.0) == []
    state.gateways[gateway].up = False
    state.conflicts[source] = ("02:00:00:00:00:01", 10.0)
    state.checks[Check(gateway, 80)] = Reachability()
    state.carrier, state.leaving, state.problem = False, True, "x"
    assert state.reasons(5.0) == [
        "leaving",
        "the kernel is not as desired: x",
        "macvlan0 has no carrier",
        "gateway 192.0.2.1 does not answer on macvlan0",
        "02:00:00:00:00:01 claims 192.0.2.46 too",
        "192.0.2.1:80 does not accept connections",
    ]
    assert "02:00:00:00:00:01 claims 192.0.2.46 too" not in state.reasons(11.0)
