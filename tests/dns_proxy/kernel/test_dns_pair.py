"""Two DNS proxies with one EGRESS_SOURCE: the one whose router is active serves, and its clients follow."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.dns_proxy.kernel.dns_proxy_pod import SOURCE, DnsProxyPod
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.pair import short_directory
from tests.redirect.kernel.proxy_pair import MOST_SECONDS, OF_PROXIES, ProxyPair, take_over_of_proxies
from tests.redirect.kernel.test_run_pair import twenty_times

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


#: Where the proxies listen for a destination of a family.
PORTS = {4: 8080, 6: 8443}


@contextmanager
def pair_of_proxies(lab: Lab, backend: str, directory: Path, open_directory: Path) -> Iterator[ProxyPair]:
    """Yield two pods, each with a proxy that runs and what is to have the address for it."""
    lab.echo("203.0.113.77", tcp=[80])
    lab.echo("2001:db8:113::77", tcp=[80])
    with short_directory() as run_directory, ExitStack() as ends:
        pair = ProxyPair(lab, backend, directory, run_directory, "dns-proxy")
        for router in pair.routers:
            own = open_directory / router.host.name
            own.mkdir()
            own.chmod(0o777)
            pod = ProxyBeside(pair, router, own)
            pod.start()
            ends.callback(pod.__exit__)
        yield pair


def ask(pair: ProxyPair, router: LiveRouter, port: int, seconds: float) -> str:
    """Return the source that the server saw, "" without an answer in that time."""
    with pair.client.socket(socket.AF_INET) as connection, suppress(OSError):
        connection.settimeout(seconds)
        connection.connect((str(router.host.addresses[4]), port))
        connection.sendall(b"hello\n")
        return connection.recv(4096).decode().partition(" ")[0]
    return ""


@pytest.mark.on_demand
@pytest.mark.timeout(3000)
def test_faults_twenty_times(make_lab: Callable[..., Lab], tmp_path: Path, open_directory: Path) -> None:
    """Shows the figures of docs/pair.md. On a machine that has nothing else to do."""
    with pair_of_proxies(make_lab(nodes=3, shape="bridge"), "nftables", tmp_path, open_directory) as pair:
        pair.asks = lambda router, family: ask(pair, router, PORTS[family], 0.3) == SOURCE[family]
        pair.start()
        found = twenty_times(pair, "DNS proxy", OF_PROXIES)
    worst = {name: max(max(one.gaps) for one in figures) for name, figures in found.items()}
    assert max(worst.values()) < MOST_SECONDS, worst


@pytest.mark.parametrize(("shape", "backend"), [("bridge", "iptables"), ("point-to-point", "nftables")])
def test_the_proxy_that_has_the_address_serves(
    make_lab: Callable[..., Lab], shape: str, backend: str, tmp_path: Path, open_directory: Path
) -> None:
    lab = make_lab(nodes=3, shape=shape)
    with pair_of_proxies(lab, backend, tmp_path, open_directory) as pair:

        def asks(router: LiveRouter) -> bool:
            return all(ask(pair, router, PORTS[family], 2) == SOURCE[family] for family in (4, 6))

        def opens(router: LiveRouter) -> socket.socket:
            connection = pair.client.socket(socket.AF_INET)
            connection.settimeout(5)
            connection.connect((str(router.host.addresses[4]), 8080))
            return connection

        take_over_of_proxies(pair, asks, opens)
