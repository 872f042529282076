"""Odd spellings of URLs: `explain` says of each what the real Squid does with it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from egress_router.config.inputs import Problems, load_inputs
from egress_router.http_proxy.explain import explain_http
from egress_router.http_proxy.targets import parse_target
from egress_router.policy.parse import parse_policy
from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy

pytestmark = pytest.mark.root

GOOD, BAD = "203.0.113.25", "203.0.113.26"
POLICY = f"!denied.example\n!*.under.example\n!{BAD}\n!2001:db8::/32\n*:80,443,8080"
NAMES = [
    "good.example",
    "denied.example",
    "a.under.example",
    "under.example",
    "free.fr",
    GOOD,
    BAD,
    "127.1",
    "0x7f000001",
    # GOOD and BAD as inet_aton(3) takes them, too.
    "3405803801",
    "3405803802",
    "0313.0.113.26",
    "0xcb.0.0x71.0x1a",
    "203.0.28954",
]
DECORATED = [
    "{}",
    "{}.",
    "{}..",
    ".{}",
    "a..{}",
    "u@{}",
    "u:p@{}",
    "[{}]",
    "{}_",
    "*.{}",
    "-{}",
    f"{'a' * 64}.{{}}",
    "{}%2e",
    "%67{}",
    "a@b@{}",
    "{}%00",
    "{}\\x",
    "é{}",
]
PORTS = [
    "",
    ":",
    ":0",
    ":80",
    ":+80",
    ":080",
    ":-80",
    ":80x",
    ":x",
    ":65535",
    ":65536",
    ":4294967376",
    ":8080",
    ":81",
    ":443",
    ": 80",
    ":80:80",
    ":8_0",
    ":80%20",
]
TAILS = ["", "/", "?x", "#x", "/a:b@c", "/squid-internal-mgr/menu", "/a b", "\\x", "/a\tb", "/%0a", "/..//"]
SIX = ["[::1]", "[::ffff:203.0.113.26]", "[64:ff9b::cb00:711a]", "[2001:db8::1", "2001:db8::1", "[fe80::1]", "[]"]
# The zone is an interface of the pod; another one makes it a name for Squid, one without an address.
SIX += [
    "[::ffff:cb00:711a]",
    "[2001:0DB8:0:0::1]",
    "[::cb00:711a]",
    "[fe80::1%lo]",
    "[0:0::ffff:203.0.113.26]",
    "[v1.a]",
]


@pytest.fixture
def shape() -> str:
    """How packets leave is another test's question."""
    return "bridge"


def hosts() -> st.SearchStrategy[str]:
    cases = st.sampled_from([str.lower, str.upper, str.title])
    named = st.builds(
        lambda form, name, case: form.format(case(name)), st.sampled_from(DECORATED), st.sampled_from(NAMES), cases
    )
    # Half of them allowed by the policy, if the rest of the spelling is.
    good = st.sampled_from(["good.example", "free.fr", "under.example", GOOD])
    return st.booleans().flatmap(lambda plain: good if plain else st.one_of(named, st.sampled_from(SIX)))


def ports() -> st.SearchStrategy[str]:
    """Half of them ordinary."""
    ordinary = st.sampled_from(["", ":80", ":443", ":8080"])
    return st.booleans().flatmap(lambda plain: ordinary if plain else st.sampled_from(PORTS))


SCHEMES = st.sampled_from(["http://", "HTTP://"])
URLS = st.tuples(SCHEMES, hosts(), ports(), st.sampled_from(TAILS)).map("".join)
TARGETS = st.builds("".join, st.tuples(hosts(), ports()))


@pytest.mark.timeout(600)
def test_explain_agrees_with_squid(lab: Lab, proxy: Proxy, client: Client) -> None:
    for name in ("good.example", "under.example", "free.fr"):
        lab.dns.set(name, A=[GOOD])
        lab.dns.set(f"{name}_", A=[GOOD])
    for name in ("denied.example", "a.under.example"):
        lab.dns.set(name, A=[GOOD])
    for port in (80, 443, 8080):
        lab.http(GOOD, port=port)
    problems = Problems()
    policy = parse_policy(load_inputs({"EGRESS_HTTP_PROXY_DESTINATION": POLICY}), problems)
    assert policy
    assert not problems.errors
    proxy.start(POLICY)
    own = list(proxy.pod.addresses.values())
    sides = {True: 0, False: 0}
    different: list[tuple[str, str, int]] = []

    def compare(method: str, text: str) -> None:
        try:
            target = parse_target(text)
        except ValueError:
            # No target of `explain`. Squid 5 makes something of a CONNECT without a port, Squid 6 refuses it.
            if method == "CONNECT":
                return
            allowed = False
        else:
            allowed = explain_http(policy, target, own=own).allowed
        reply = (
            client.raw(f"{method} {text} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            if method == "GET"
            else connect(text)
        )
        status = int(reply.split()[1]) if reply else 400
        sides[allowed] += 1
        # What is allowed may fail: names that do not exist, ports where nobody listens.
        if (status not in (400, 403)) is not allowed:
            different.append((method, text, status))

    def connect(text: str) -> bytes:
        with client.connect() as opened:
            opened.sendall(f"CONNECT {text} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return opened.recv(100)

    @settings(
        max_examples=400,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(st.tuples(st.just("GET"), URLS), st.tuples(st.just("CONNECT"), TARGETS)))
    def every_spelling(asked: tuple[str, str]) -> None:
        compare(*asked)

    every_spelling()
    assert not different, sorted(set(different))
    assert min(sides.values()) > 60, sides
