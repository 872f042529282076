"""Real HAProxy accepts every configuration that our checks accept. Needs HAProxy, not root."""

from __future__ import annotations

import string
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress_router.config.inputs import Inputs, Problems
from egress_router.dns_proxy.destinations import parse_dns_proxy
from egress_router.dns_proxy.haproxy.config import render_haproxy

# The proxies' programs stand in /usr/sbin and come with what root installs.
pytestmark = pytest.mark.root

LABEL = st.text(alphabet=string.ascii_letters + string.digits + "_-", min_size=1, max_size=63)
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=5).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.sampled_from(["bücher.example", "example.com.", "_db._tcp.example.com", "a" * 63, ".".join(["a" * 62] * 4)]),
)
LINE = st.builds(
    "{} {}{}{}".format,
    st.integers(1, 65535),
    HOST,
    st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f" {port}")),
    st.sampled_from(["", " check"]),
)
SOURCES = ["", "192.0.2.46", "2001:db8:2::46/64", "192.0.2.46/24 2001:db8:2::46"]
KNOWN: list[IPv4Address | IPv6Address] = [ip_address("203.0.113.25"), ip_address("2001:db8:113::25")]


@pytest.fixture(scope="module")
def accepted() -> Any:
    """Counts what our checks accepted, so that the property is not about nothing."""
    counts: list[int] = []
    yield counts
    assert len(counts) > 20


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINE, min_size=1, max_size=8),
    source=st.sampled_from(SOURCES),
    idle=st.sampled_from(["1", "1h", "24d"]),
    log=st.sampled_from(["on", "off"]),
)
def test_what_check_accepts_haproxy_accepts(
    tmp_path: Path, accepted: list[int], lines: list[str], source: str, idle: str, log: str
) -> None:
    # Lines that our checks refuse are left out one by one: a list of good ones remains.
    env = {
        "EGRESS_SOURCE": source,
        "EGRESS_DNS_PROXY_IDLE_TIMEOUT": idle,
        "EGRESS_DNS_PROXY_ACCESS_LOG": log,
        "EGRESS_DNS_PROXY_DESTINATION": "\n".join(lines),
    }
    problems = Problems()
    config = parse_dns_proxy(Inputs(env), problems, required=True)
    if config is None:
        bad = {problem.line for problem in problems.errors}
        kept = [line for number, line in enumerate(lines, start=1) if number not in bad]
        problems = Problems()
        config = parse_dns_proxy(
            Inputs(env | {"EGRESS_DNS_PROXY_DESTINATION": "\n".join(kept)}), problems, required=True
        )
        if config is None:
            assert kept == []
            return
    accepted.append(1)
    known = {name: [a for a in KNOWN if config.reachable(a)] for name in config.names}
    path = tmp_path / "haproxy.cfg"
    path.write_text(render_haproxy(config, known, socket=str(tmp_path / "s")))
    done = subprocess.run(["haproxy", "-c", "-f", str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr + path.read_text()
    assert "WARNING" not in done.stderr
