"""The HTTP proxy's two containers, in both shapes and families: what leaves has EGRESS_SOURCE."""

from __future__ import annotations

import sys

import pytest

from lab import Lab
from lab.servers import HttpServer
from tests.http_proxy.kernel.http_pod import Client, Proxy

pytestmark = pytest.mark.root

GOOD, GOOD6 = "203.0.113.25", "2001:db8:113::25"
SOURCE, SOURCE6 = "192.0.2.46", "2001:db8:2::46"
GATEWAYS = "192.0.2.1, 2001:db8:2::1"


@pytest.fixture
def servers(lab: Lab) -> list[HttpServer]:
    lab.dns.set("only4.example", A=[GOOD])
    lab.dns.set("only6.example", AAAA=[GOOD6])
    return [lab.http(GOOD, port=80), lab.http(GOOD6, port=80)]


def init(proxy: Proxy, sources: str, gateways: str = GATEWAYS) -> None:
    """Run the init container in the pod, with the interface that the platform gives it."""
    proxy.lab.macvlan(proxy.pod)
    env = {"EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_SOURCE": sources, "EGRESS_GATEWAY": gateways}
    proxy.pod.run([sys.executable, "-m", "egress_router", "init"], env=env | {"EGRESS_DAD": "off"}, timeout=60)


def test_leaves_with_the_source(lab: Lab, proxy: Proxy, client: Client, servers: list[HttpServer]) -> None:
    sources = f"{SOURCE}/24, {SOURCE6}/64"
    init(proxy, sources)
    proxy.start("*", {"EGRESS_SOURCE": sources})
    with lab.capture() as capture:
        for family in (4, 6):
            assert client.status(f"http://only{family}.example/") == 200
            assert client.tunnel(f"only{family}.example:80")[0] == 200
    assert [{request.peer for request in server.requests} for server in servers] == [{SOURCE}, {SOURCE6}]
    assert {str(source) for source in capture.sources()} == {SOURCE, SOURCE6}
    assert not capture.leaks(allowed={SOURCE, SOURCE6})


def test_without_the_variable_the_routes_decide(
    lab: Lab, proxy: Proxy, client: Client, servers: list[HttpServer]
) -> None:
    """Upstream's manifests set EGRESS_SOURCE for the init container alone."""
    init(proxy, f"{SOURCE}/24, {SOURCE6}/64")
    proxy.start("*")
    with lab.capture() as capture:
        assert client.status("http://only4.example/") == 200
        assert client.status("http://only6.example/") == 200
    assert {str(source) for source in capture.sources()} == {SOURCE, SOURCE6}


def test_a_family_without_a_source_cannot_leave(
    lab: Lab, proxy: Proxy, client: Client, servers: list[HttpServer]
) -> None:
    assert lab.tcp(proxy.pod, GOOD6, 80, payload="GET / HTTP/1.0\n\n"), "the control"
    init(proxy, SOURCE, "192.0.2.1")
    proxy.start("*", {"EGRESS_SOURCE": SOURCE})
    with lab.capture() as capture:
        assert client.status("http://only4.example/") == 200
        assert client.status("http://only6.example/") == 503
    assert {str(source) for source in capture.sources()} == {SOURCE}
