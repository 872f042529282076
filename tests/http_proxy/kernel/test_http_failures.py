"""The HTTP proxy when something fails that nobody foresaw: the log and /healthz tell of it, and it ends or goes on."""

from __future__ import annotations

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy
from tests.support.endpoint import Endpoint
from tests.support.image_view import failing

pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD = "203.0.113.25"
POLICY = f"{GOOD}\n*.example\n"
TRACEBACK = "Traceback (most recent call last)"
REASONS = "egress_router.http_proxy.squid.dns_reasons:DnsReasons"


def start(proxy: Proxy, where: str, times: str, *, wait: bool = True) -> None:
    """Start the container, in which something fails."""
    proxy.program = failing(where, times)
    proxy.start(POLICY, wait=wait)


def ended(proxy: Proxy) -> str:
    """Return what it logged, once it has ended with a fault of ours."""
    assert proxy.process is not None
    assert proxy.process.wait(20) == 70
    log = proxy.err.read_text()
    assert TRACEBACK in log
    assert "RecursionError: injected" in log
    return log


@pytest.mark.parametrize("where", [f"{REASONS}._tell", f"{REASONS}._ask"], ids=["callback", "task"])
def test_a_thread_that_fails_ends_it(proxy: Proxy, client: Client, where: str) -> None:
    start(proxy, where, "always")
    assert client.status("http://gone.example/") >= 500
    assert "thread dns-reasons ended: RecursionError: injected; see the log" in ended(proxy)


def test_a_loop_that_fails_ends_it(proxy: Proxy) -> None:
    start(proxy, "egress_router.http_proxy.squid.engine:SquidEngine.ready", "always", wait=False)
    assert "this is a bug of egress-router" in ended(proxy)


def test_an_endpoint_that_fails_is_started_again(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.http(GOOD, port=80)
    start(proxy, "egress_router.daemon.endpoint:Endpoint._accept", "1")
    endpoint = Endpoint(client.pod, proxy.address)
    endpoint.until(endpoint.ready, "it is there again")
    status, body = endpoint.get("/healthz?verbose")
    assert status == 200
    assert "endpoint: last heartbeat" in body
    assert "failed 1 times, the last time by RecursionError: injected" in body
    assert "dns-reasons: last heartbeat" in body, "every thread is there"
    assert TRACEBACK in proxy.err.read_text()
    assert client.status(f"http://{GOOD}/") == 200


def test_lines_of_the_access_log_that_cannot_be_read_stop_nobody(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Squid must not stand still because nobody reads what it writes."""
    lab.http(GOOD, port=80)
    start(proxy, "egress_router.http_proxy.squid.access_log:AccessLog._copy_lines", "1")
    assert client.status(f"http://{GOOD}/") == 200
    proxy.wait_for("of the access log could not be read")
    assert TRACEBACK in proxy.err.read_text()
    assert client.status(f"http://{GOOD}/") == 200
    assert proxy.wait_for_log(1)
