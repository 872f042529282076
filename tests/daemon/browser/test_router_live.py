"""The page of a real redirect router in a browser, and two tasks of somebody who sees it for the first time: which
destination loses traffic now, and would this connection be let through.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Playwright

from egress_router.daemon.page import rates
from lab import Lab
from tests.redirect.kernel.live import LiveRouter
from tests.support.browser import browser_in, screenshot
from tests.support.endpoint import Endpoint

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp bank.example.com\n8080 tcp shop.example.com 80\n"


@pytest.mark.parametrize(("backend", "shape"), [("nftables", "bridge")])
def test_tasks(playwright: Playwright, lab: Lab, backend: str, tmp_path: Path) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    lab.dns.set("shop.example.com", A=["203.0.113.25"])
    router = LiveRouter(lab, backend, tmp_path, RULES)
    router.start()
    endpoint = Endpoint(router.client, str(router.host.addresses[4]))
    router.until(lambda: endpoint.get("/healthz")[0] == 200, "the health server listens")
    router.until(lambda: "203.0.113.25" in endpoint.get("/?q=shop")[1], "the name has an address")
    # What grew between two looks is drawn.
    router.until_for(
        lambda: router.tcp(80) and "<polyline" in endpoint.get("/")[1], "the small line", 3 * rates.STEP_SECONDS
    )
    told: list[str] = []
    url = f"http://{router.host.addresses[4]}:9909/"
    with browser_in(playwright, router.client.netns, tmp_path) as page:
        page.on("console", lambda message: told.append(message.text))
        page.on("request", lambda request: None if request.url.startswith(url) else told.append(request.url))
        response = page.goto(url)
        assert response is not None
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert "set-cookie" not in response.headers
        # Which destination loses traffic now: without a click.
        page.wait_for_selector("#wrong + ul li:has-text('bank.example.com has no address')", timeout=15_000)
        page.wait_for_selector("polyline", timeout=15_000, state="attached")
        assert Axe().run(page).violations_count == 0
        screenshot(page, "router")
        # Would 8443/tcp be let through: one field, one key.
        page.locator("#target").focus()
        page.keyboard.type("8443/tcp")
        page.keyboard.press("Enter")
        page.wait_for_url(url + "?target=8443%2Ftcp#ask")
        reply = page.locator("#replies li").first.inner_text()
        assert "refused" in reply
        assert "no line claims it" in reply
        # It stays while the page renews itself, and the list changes before our eyes.
        router.reload(RULES + "8443 tcp 203.0.113.25 443\n")
        page.wait_for_selector("#replies li:has-text('allowed')", timeout=15_000)
        screenshot(page, "router-ask")
    assert told == []
