"""Two DNS proxies with one EGRESS_SOURCE: the one whose router is active serves, and its clients follow."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.dns_proxy.kernel.dns_proxy_pod import SOURCE, DnsProxyPod
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.pair import short_directory
from tests.redirect.kernel.proxy_pair import ProxyPair, take_over_of_proxies

pytestmark = pytest.mark.root

LIST = "8080 203.0.113.77 80\n8443 2001:db8:113::77 80\n"


class ProxyBeside(DnsProxyPod):
    """The proxy in the pod of a router."""

    def __init__(self, pair: ProxyPair, router: LiveRouter, directory: Path) -> None:
        self._pods = pair.client, router.host
        super().__init__(pair.lab, directory, LIST)

    def make_pods(self) -> tuple[Host, Host]:
        """Return those that there are."""
        return self._pods


@pytest.mark.parametrize(("shape", "backend"), [("bridge", "iptables"), ("point-to-point", "nftables")])
def test_the_proxy_that_has_the_address_serves(
    make_lab: Callable[..., Lab], shape: str, backend: str, tmp_path: Path, open_directory: Path
) -> None:
    lab = make_lab(nodes=3, shape=shape)
    lab.echo("203.0.113.77", tcp=[80])
    lab.echo("2001:db8:113::77", tcp=[80])
    with short_directory() as directory, ExitStack() as ends:
        pair = ProxyPair(lab, backend, tmp_path, directory, "dns-proxy")
        pods = {}
        for router in pair.routers:
            own = open_directory / router.host.name
            own.mkdir()
            own.chmod(0o777)
            pod = ProxyBeside(pair, router, own)
            pod.start()
            ends.callback(pod.__exit__)
            pods[router.host.name] = pod

        def asks(router: LiveRouter) -> bool:
            return all(ask(router, port) == SOURCE[family] for port, family in ((8080, 4), (8443, 6)))

        def ask(router: LiveRouter, port: int) -> str:
            """Return the source that the server saw, "" without an answer."""
            with pair.client.socket(socket.AF_INET) as connection, suppress(OSError):
                connection.settimeout(2)
                connection.connect((str(router.host.addresses[4]), port))
                connection.sendall(b"hello\n")
                return connection.recv(4096).decode().partition(" ")[0]
            return ""

        def opens(router: LiveRouter) -> socket.socket:
            connection = pair.client.socket(socket.AF_INET)
            connection.settimeout(5)
            connection.connect((str(router.host.addresses[4]), 8080))
            return connection

        take_over_of_proxies(pair, asks, opens)
