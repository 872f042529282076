"""`egress-router run` shows itself to people: its page at `/`, a question asked there, and the same as a file."""

from __future__ import annotations

import sys
from html import unescape
from pathlib import Path

import pytest

from egress_router.daemon.page import rates
from lab import Lab
from tests.redirect.kernel.live import LiveRouter
from tests.support.endpoint import Endpoint

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp bank.example.com\n"


def test_what_it_carries_and_what_it_dropped(lab: Lab, backend: str, tmp_path: Path) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    router = LiveRouter(lab, backend, tmp_path, RULES)
    router.start()
    endpoint = Endpoint(router.client, str(router.host.addresses[4]))
    router.until(lambda: endpoint.get("/healthz")[0] == 200, "the health server listens")
    for _ in range(3):
        router.tcp(80)
    page = ""

    def shows(text: str, query: str = "") -> bool:
        nonlocal page
        status, page = endpoint.get(f"/{query}")
        assert status == 200, page
        return text in unescape(page)

    router.until(lambda: shows('<td class="n">3</td>'), "three connections are counted")
    router.until(lambda: shows("bank.example.com has no address"), "the dead name is on top")
    assert "192.0.2.46" in page
    router.until(lambda: shows("gateway 192.0.2.1"), "the gateway is there")
    assert shows('line 1 "80 tcp 203.0.113.25" sends it to 203.0.113.25:80', "?target=80/tcp")
    assert shows("dropped now:", "?target=443/tcp")
    assert shows("no line claims it", "?target=8443")
    assert shows("is not PORT or PORT/PROTOCOL", "?target=bank.example.com")
    router.reload(RULES + "8080 tcp 203.0.113.25 80\n")
    router.until(lambda: shows("+ <code>8080 tcp 203.0.113.25 80</code>"), "what the reload changed")
    # What grew between two looks is drawn; those above may all have come before the first.
    router.until_for(lambda: router.tcp(80) and shows("<polyline"), "the small line", 3 * rates.STEP_SECONDS)
    router.reload("80 tcp nonsense!\n")
    router.until(lambda: shows("the list is refused"), "a refused list")

    def report(*options: str) -> str:
        command = [sys.executable, "-m", "egress_router", "report", "--html", "-", *options]
        return router.host.run(command, env=router.env).stdout

    assert "203.0.113.25" in report()
    assert "203.0.113.25" not in report("--redact")
    assert "<script" not in report()


@pytest.mark.parametrize("backend", ["nftables"])
def test_it_can_be_off(lab: Lab, backend: str, tmp_path: Path) -> None:
    router = LiveRouter(lab, backend, tmp_path, RULES, EGRESS_PAGE="off")
    router.start()
    endpoint = Endpoint(router.client, str(router.host.addresses[4]))
    router.until(lambda: endpoint.get("/healthz")[0] == 200, "the health server listens")
    assert endpoint.get("/")[0] == 404
    command = [sys.executable, "-m", "egress_router", "report", "--html", str(tmp_path / "x")]
    done = router.host.run(command, env=router.env, check=False)
    assert done.returncode == 69
    assert "EGRESS_PAGE" in done.stderr
    assert not (tmp_path / "x").exists()
