"""Two HTTP proxies with one EGRESS_SOURCE: the one whose router is active serves, and its clients follow."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.pair import short_directory
from tests.redirect.kernel.proxy_pair import ProxyPair, take_over_of_proxies
from tests.redirect.kernel.router import SOURCE4, SOURCE6

pytestmark = pytest.mark.root

GOOD, GOOD6 = "203.0.113.25", "2001:db8:113::25"


@pytest.mark.parametrize(("shape", "backend"), [("bridge", "nftables"), ("point-to-point", "iptables")])
def test_the_proxy_that_has_the_address_serves(
    make_lab: Callable[..., Lab], shape: str, backend: str, tmp_path: Path
) -> None:
    lab = make_lab(nodes=3, shape=shape)
    with short_directory() as directory:
        pair = ProxyPair(lab, backend, tmp_path, directory, "http-proxy")
        server, server6 = lab.http(GOOD, port=8000), lab.http(GOOD6, port=8000)
        proxies = {}
        for router in pair.routers:
            proxy = Proxy(lab, router.host)
            proxy.__enter__()
            proxy.start("*", {"EGRESS_SOURCE": f"{SOURCE4}, {SOURCE6}"})
            proxies[router.host.name] = proxy
        clients = {name: Client(lab, proxy, pair.client) for name, proxy in proxies.items()}

        def asks(router: LiveRouter) -> bool:
            client = clients[router.host.name]
            return all(client.status(f"http://{host}:8000/") == 200 for host in (GOOD, f"[{GOOD6}]"))

        def opens(router: LiveRouter) -> socket.socket:
            code, connection = clients[router.host.name].tunnel(f"{GOOD}:8000")
            assert code == 200
            return connection

        try:
            take_over_of_proxies(pair, asks, opens)
        finally:
            for proxy in proxies.values():
                proxy.__exit__(None, None, None)
    assert {request.peer for request in server.requests} == {SOURCE4}
    assert {request.peer for request in server6.requests} == {SOURCE6}
