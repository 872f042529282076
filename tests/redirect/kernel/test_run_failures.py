"""`egress-router run` when something fails that nobody foresaw: it is logged, seen in /healthz, and ends it or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Lab
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, assert_answered_by
from tests.support.endpoint import Endpoint

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("shape", ["bridge"]),
    pytest.mark.parametrize("backend", ["nftables"]),
]

RULES = "80 tcp 203.0.113.25\n"


@pytest.fixture
def router(lab: Lab, backend: str, tmp_path: Path) -> LiveRouter:
    lab.echo("203.0.113.25", tcp=[80])
    return LiveRouter(lab, backend, tmp_path, RULES, EGRESS_PROBE_INTERVAL="1")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "egress_router.redirect.daemon:Reconciler.check",
            "thread kernel ended: RecursionError: injected; see the log",
        ),
        ("egress_router.redirect.uplink:UplinkMonitor.probe", "this is a bug of egress-router"),
    ],
)
def test_it_ends_with_the_reason_and_the_kernel_goes_on_forwarding(router: LiveRouter, where: str, said: str) -> None:
    router.program = ("tests.support.failing", where, "always")
    router.start()
    assert router.wait() == 70
    assert "Traceback (most recent call last)" in router.log()
    assert "RecursionError: injected" in router.log()
    assert said in router.log()
    assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.25", 80)


def test_an_endpoint_that_fails_is_started_again(router: LiveRouter) -> None:
    router.program = ("tests.support.failing", "egress_router.daemon.endpoint:Endpoint._accept", "1")
    router.start()
    endpoint = Endpoint(router.client, str(router.host.addresses[4]))
    router.until(endpoint.ready, "it is there again")
    status, body = endpoint.get("/healthz?verbose")
    assert status == 200
    assert "endpoint: last heartbeat" in body
    assert "failed 1 times, the last time by RecursionError: injected" in body
    assert "thread endpoint ended by an error that nobody foresaw" in router.log()
    assert "Traceback (most recent call last)" in router.log()


def test_a_page_that_fails_is_answered_and_logged(router: LiveRouter) -> None:
    router.program = ("tests.support.failing", "egress_router.redirect.metrics:RouterCollector.collect", "1")
    router.start()
    endpoint = Endpoint(router.client, str(router.host.addresses[4]))
    assert endpoint.get("/metrics") == (500, "the page could not be made; see the log\n")
    assert "/metrics cannot be shown" in router.log()
    assert "RecursionError: injected" in router.log()
    assert endpoint.get("/metrics")[0] == 200
