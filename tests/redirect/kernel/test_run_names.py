"""`egress-router run` with host names: spread, other answers, DNS in trouble, restarts."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lab import Lab, NoReply
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, SOURCE6, assert_answered_by, assert_no_leak
from tests.redirect.kernel.test_run_health import at, ready
from tests.redirect.kernel.test_run_reload import Talk

pytestmark = pytest.mark.root

ONE, TWO, THREE = "203.0.113.25", "203.0.113.26", "203.0.113.27"
SIX, SEVEN = "2001:db8:113::25", "2001:db8:113::26"
#: Each shape and each backend once.
PAIRS = [("bridge", "nftables"), ("point-to-point", "iptables")]
RULES = """\
80 tcp 203.0.113.25
443 tcp api.example.com
8080 udp db.example.com 53
8000-8001 tcp api.example.com 444-445
everything.example.com
"""


def serve(lab: Lab) -> None:
    for server in (ONE, TWO, THREE, SIX, SEVEN):
        lab.echo(server, tcp=[80, 443, 445, 1234], udp=53)


def names(router: LiveRouter) -> Any:
    """What the router says about its names."""
    return json.loads(at(router).get("/status")[1])["names"]


def in_use(router: LiveRouter, name: str, *addresses: str) -> None:
    """Wait until new connections to ``name`` go to ``addresses``."""
    router.until(lambda: names(router)[name]["addresses"] == list(addresses), f"{name} has {addresses}")


def servers(router: LiveRouter, port: int, family: int = 4, count: int = 24) -> Counter[str]:
    """Open ``count`` connections, each from a port of its own; return which servers were reached how often."""
    return Counter(router.tcp(port, family).split()[2] for _ in range(count))


def test_new_connections_are_spread_and_follow_the_answer_and_established_ones_stay(
    lab: Lab, backend: str, tmp_path: Path
) -> None:
    serve(lab)
    lab.dns.set("api.example.com", A=[ONE, TWO, THREE, "127.0.0.1", "169.254.169.254", SOURCE4], AAAA=[SIX, SEVEN])
    lab.dns.set("db.example.com", A=[ONE], AAAA=[SIX])
    lab.dns.set("everything.example.com", A=[THREE])
    router = LiveRouter(lab, backend, tmp_path, RULES)
    with lab.capture() as capture:
        router.start()
        in_use(router, "api.example.com", ONE, TWO, THREE, SIX, SEVEN)
        found = servers(router, 443, count=60)
        assert found.keys() == {ONE, TWO, THREE}
        assert min(found.values()) >= 6, "60 connections to 3 servers"
        assert servers(router, 443, 6, 20).keys() == {SIX, SEVEN}
        assert router.tcp(8001, 6).split()[0] == SOURCE6
        assert_answered_by(router.udp(8080), SOURCE4, ONE, 53)
        assert_answered_by(router.udp(8080, 6), SOURCE6, SIX, 53)
        assert_answered_by(router.tcp(1234), SOURCE4, THREE, 1234)
        with pytest.raises(NoReply) as silent:
            router.tcp(1234, 6, timeout=0.5)
        assert silent.value.reason == "timeout", "a name without an address of the family"
        talks = [Talk(router, 443), Talk(router, 443, 6), Talk(router, 8001)]
        datagrams = Talk(router, 8080, kind=socket.SOCK_DGRAM)
        lab.dns.set("api.example.com", A=[TWO], AAAA=[SEVEN])
        lab.dns.set("db.example.com", A=[TWO], AAAA=[SIX])
        in_use(router, "api.example.com", TWO, SEVEN)
        in_use(router, "db.example.com", TWO, SIX)
        assert servers(router, 443, count=8).keys() == servers(router, 8001, count=8).keys() == {TWO}
        assert servers(router, 443, 6, 8).keys() == {SEVEN}
        assert_answered_by(router.udp(8080), SOURCE4, TWO, 53)
        for talk in talks:
            assert talk.say("again") == "again\n"
        assert datagrams.say("again").split()[2] == ONE
    assert_no_leak(capture)
    assert not {"127.0.0.1", "169.254.169.254"} & {str(packet.dst) for packet in capture.packets}
    assert router.log().count("127.0.0.1 is not used: it is a loopback address") == 1
    assert "169.254.169.254 is not used: it is a link-local address" in router.log()
    assert f"{SOURCE4} is not used: it is an address of this pod" in router.log()
    status = router.status()
    assert status["drift"] == []
    counted = {row["rule"]: row["connections"] for row in status["destinations"]}
    # The one that was dropped is none.
    assert counted["everything.example.com"] == 1
    assert counted["443 tcp api.example.com"] == 60 + 20 + 2 + 8 + 8
    assert 'egress_router_name_addresses{name="api.example.com"} 2.0' in at(router).get("/metrics")[1]


@pytest.mark.parametrize(("shape", "backend"), PAIRS)
def test_dns_gone_and_back(lab: Lab, backend: str, tmp_path: Path) -> None:
    """No answer at the start, then one, then none again: within the bound, and beyond it."""
    serve(lab)
    lab.dns.stop()
    rules = "80 tcp 203.0.113.25\n443 tcp api.example.com\n"
    router = LiveRouter(lab, backend, tmp_path, rules, EGRESS_NAME_HOLD="3s", EGRESS_PROBE_INTERVAL="1")
    with lab.capture() as capture:
        began = time.monotonic()
        router.start()
        assert time.monotonic() - began < 5, "the start does not wait for DNS"
        assert_answered_by(router.tcp(80), SOURCE4, ONE, 80)
        router.until(lambda: at(router).remarks("api.example.com has no address: "), "the name is told")
        with pytest.raises(NoReply) as silent:
            router.tcp(443, timeout=0.5)
        assert silent.value.reason == "timeout"
        lab.dns.set("api.example.com", A=[TWO])
        lab.dns.start()
        router.until(lambda: ready(router), "the name has an answer")
        talk = Talk(router, 443)
        assert talk.server == TWO
        lab.dns.stop()
        # Longer than the time to live.
        time.sleep(1.5)
        assert_answered_by(router.tcp(443), SOURCE4, TWO, 443)
        assert ready(router)
        router.until(lambda: at(router).remarks("api.example.com has no address: "), "the bound is reached")
        router.logged("no address serves")
        with pytest.raises(NoReply):
            router.tcp(443, timeout=0.5)
        assert_answered_by(router.tcp(80), SOURCE4, ONE, 80)
        assert talk.say("again") == "again\n"
        lab.dns.start()
        router.until(lambda: ready(router), "DNS is back")
        assert_answered_by(router.tcp(443), SOURCE4, TWO, 443)
    assert_no_leak(capture)


@pytest.mark.parametrize(("shape", "backend"), PAIRS)
def test_connections_of_a_name_survive_a_kill_and_end_with_their_line(lab: Lab, backend: str, tmp_path: Path) -> None:
    """Their address has left the answer in the meantime, so that nothing but their mark tells whose they are."""
    serve(lab)
    lab.dns.set("api.example.com", A=[ONE], AAAA=[SIX])
    lab.dns.set("other.example.com", A=[THREE])
    rules = "443 tcp api.example.com\n8080 udp api.example.com 53\n1234 tcp api.example.com\n"
    router = LiveRouter(lab, backend, tmp_path, rules)
    router.start()
    in_use(router, "api.example.com", ONE, SIX)
    talk, six, redirected = Talk(router, 443), Talk(router, 443, 6), Talk(router, 1234)
    datagrams = Talk(router, 8080, kind=socket.SOCK_DGRAM)
    lab.dns.set("api.example.com", A=[TWO])
    in_use(router, "api.example.com", TWO)
    router.signal(signal.SIGKILL)
    router.wait()
    assert talk.say("meanwhile") == "meanwhile\n"
    assert_answered_by(router.tcp(443), SOURCE4, TWO, 443)
    router.start()
    in_use(router, "api.example.com", TWO)
    for old in (talk, six, redirected):
        assert old.say("again") == "again\n"
    assert datagrams.say("again").split()[2] == ONE
    router.reload("443 tcp api.example.com\n1234 tcp other.example.com\n")
    in_use(router, "other.example.com", THREE)
    assert talk.say("again") == "again\n"
    with pytest.raises(ConnectionResetError):
        redirected.say("again")
    with pytest.raises(OSError, match=r"timed out|refused"):
        datagrams.say("again")
    router.signal(signal.SIGKILL)
    router.wait()
    router.swap("443 tcp other.example.com\n")
    router.start()
    in_use(router, "other.example.com", THREE)
    for old in (talk, six):
        with pytest.raises(OSError, match=r"reset|timed out"):
            old.say("again")
    assert router.status()["drift"] == []
