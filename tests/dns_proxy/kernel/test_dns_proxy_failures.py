"""The DNS proxy when something fails that nobody foresaw: the log and /healthz tell of it, and it ends or goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Lab
from tests.dns_proxy.kernel.dns_proxy_pod import DnsProxyPod
from tests.support.endpoint import Endpoint
from tests.support.image_view import failing

pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD = "203.0.113.25"
LIST = f"80 {GOOD}\n8080 example.com 80\n"
TRACEBACK = "Traceback (most recent call last)"


@contextmanager
def running(pod: DnsProxyPod, where: str, times: str) -> Iterator[None]:
    """Start the container, in which something fails, and end it; do not wait until it serves."""
    pod.program = failing(where, times)
    pod.start(wait=False)
    try:
        yield
    finally:
        pod.__exit__()


@pytest.fixture
def pod(lab: Lab, open_directory: Path) -> DnsProxyPod:
    lab.echo(GOOD, tcp=[80])
    lab.dns.set("example.com", A=[GOOD])
    pod = DnsProxyPod(lab, open_directory, LIST, families="4")
    pod.init()
    return pod


@pytest.mark.parametrize(
    ("where", "said"),
    [
        # A task of the thread that looks names up: without it a name would keep its addresses for ever.
        (
            "egress_router.dns.watcher:DnsWatcher._on_update",
            "thread names ended: RecursionError: injected; see the log",
        ),
        # A callback of that thread.
        (
            "egress_router.dns_proxy.haproxy.watcher:BackendWatcher._full_sync",
            "thread names ended: RecursionError: injected",
        ),
        # The loop.
        ("egress_router.dns_proxy.haproxy.engine:HaproxyEngine.ready", "this is a bug of egress-router"),
    ],
    ids=["task", "callback", "loop"],
)
def test_it_ends_with_the_reason(pod: DnsProxyPod, where: str, said: str) -> None:
    with running(pod, where, "always"):
        assert pod.process is not None
        assert pod.process.wait(20) == 70
        assert TRACEBACK in pod.messages()
        assert "RecursionError: injected" in pod.messages()
        assert said in pod.messages()


def test_an_endpoint_that_fails_is_started_again(pod: DnsProxyPod) -> None:
    with running(pod, "egress_router.daemon.endpoint:Endpoint._accept", "1"):
        endpoint = Endpoint(pod.client, pod.address)
        endpoint.until(lambda: endpoint.get("/readyz")[0] == 200, "it is there again")
        status, body = endpoint.get("/healthz?verbose")
        assert status == 200
        assert "endpoint: last heartbeat" in body
        assert "failed 1 times, the last time by RecursionError: injected" in body
        assert "names: last heartbeat" in body, "every thread is there"
        assert TRACEBACK in pod.messages()
        assert pod.ask(80)


def test_lines_of_the_access_log_that_cannot_be_counted_stop_nobody(pod: DnsProxyPod) -> None:
    """HAProxy must not stand still because nobody reads what it writes."""
    with running(pod, "egress_router.dns_proxy.haproxy.log_pipe:ConnectionStats.add", "1"):
        pod.until(lambda: "generation 1 is in force" in pod.messages())
        pod.ask(80)
        pod.until(lambda: "of the access log could not be read" in pod.messages())
        assert TRACEBACK in pod.messages()
        pod.ask(80)
        endpoint = Endpoint(pod.client, pod.address)
        endpoint.until(
            lambda: endpoint.figure(f'egress_router_destination_connections_total{{destination="80 {GOOD} 80"}}') == 1,
            "the next one is counted",
        )
