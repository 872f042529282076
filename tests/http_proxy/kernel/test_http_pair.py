"""Two HTTP proxies with one EGRESS_SOURCE: the one whose router is active serves, and its clients follow."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.pair import short_directory
from tests.redirect.kernel.proxy_pair import MOST_SECONDS, OF_PROXIES, ProxyPair, take_over_of_proxies
from tests.redirect.kernel.router import SOURCE4, SOURCE6
from tests.redirect.kernel.test_run_pair import twenty_times

pytestmark = pytest.mark.root

GOOD, GOOD6 = "203.0.113.25", "2001:db8:113::25"


@contextmanager
def pair_of_proxies(lab: Lab, backend: str, directory: Path) -> Iterator[tuple[ProxyPair, dict[str, Client]]]:
    """Yield two pods, each with a proxy and what is to have the address for it, and a client of each proxy."""
    with short_directory() as run_directory:
        pair = ProxyPair(lab, backend, directory, run_directory, "http-proxy")
        proxies = {}
        for router in pair.routers:
            proxy = Proxy(lab, router.host)
            proxy.__enter__()
            proxy.start("*", {"EGRESS_SOURCE": f"{SOURCE4}, {SOURCE6}"})
            proxies[router.host.name] = proxy
        try:
            yield pair, {name: Client(lab, proxy, pair.client) for name, proxy in proxies.items()}
        finally:
            for proxy in proxies.values():
                proxy.__exit__(None, None, None)


@pytest.mark.on_demand
@pytest.mark.timeout(3000)
def test_faults_twenty_times(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """Shows the figures of docs/pair.md. On a machine that has nothing else to do."""
    lab = make_lab(nodes=3, shape="bridge")
    lab.http(GOOD, port=8000)
    lab.http(GOOD6, port=8000)
    hosts = {4: GOOD, 6: f"[{GOOD6}]"}

    def asks(router: LiveRouter, family: int) -> bool:
        request = f"GET http://{hosts[family]}:8000/ HTTP/1.1\r\nHost: {hosts[family]}\r\nConnection: close\r\n\r\n"
        with suppress(OSError), pair.client.socket(socket.AF_INET) as connection:
            connection.settimeout(0.3)
            connection.connect((str(router.host.addresses[4]), 8080))
            connection.sendall(request.encode())
            return b" 200 " in connection.recv(64)
        return False

    with pair_of_proxies(lab, "nftables", tmp_path) as (pair, _):
        pair.asks = asks
        pair.start()
        found = twenty_times(pair, "HTTP proxy", OF_PROXIES)
    worst = {name: max(max(one.gaps) for one in figures) for name, figures in found.items()}
    assert max(worst.values()) < MOST_SECONDS, worst


@pytest.mark.parametrize(("shape", "backend"), [("bridge", "nftables"), ("point-to-point", "iptables")])
def test_the_proxy_that_has_the_address_serves(
    make_lab: Callable[..., Lab], shape: str, backend: str, tmp_path: Path
) -> None:
    lab = make_lab(nodes=3, shape=shape)
    server, server6 = lab.http(GOOD, port=8000), lab.http(GOOD6, port=8000)
    with pair_of_proxies(lab, backend, tmp_path) as (pair, clients):

        def asks(router: LiveRouter) -> bool:
            client = clients[router.host.name]
            return all(client.status(f"http://{host}:8000/") == 200 for host in (GOOD, f"[{GOOD6}]"))

        def opens(router: LiveRouter) -> socket.socket:
            code, connection = clients[router.host.name].tunnel(f"{GOOD}:8000")
            assert code == 200
            return connection

        take_over_of_proxies(pair, asks, opens)
    assert {request.peer for request in server.requests} == {SOURCE4}
    assert {request.peer for request in server6.requests} == {SOURCE6}
