"""A router's page as people meet it: on a desk in the light, on a phone in the dark, by a screen reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from egress_router.daemon.page.query import Query
from egress_router.daemon.page.router import router_page
from egress_router.daemon.page.view import AskForm, Reply, RouterView
from tests.daemon.unit.test_router_page import HOSTILE, NOW, VIEW
from tests.support.browser import DESK, PHONE, opened

pytestmark = pytest.mark.root

FORM = AskForm(
    "8080/tcp", "address", lambda target, client: [Reply(True, target), Reply(False, client), Reply(None, "")]
)
STATES = {
    "empty": RouterView("redirect", NOW),
    "degraded": VIEW,
    "not ready": replace(VIEW, reasons=["gateway 192.0.2.1 does not answer on macvlan0"], refused="line 2: no port"),
    "hostile": replace(VIEW, kind=HOSTILE, reasons=[HOSTILE], refused=HOSTILE),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)], ids=["desk", "phone"])
def test_everybody_can_read_it(browser: Browser, tmp_path: Path, name: str, scheme: str, size: dict[str, int]) -> None:
    query = Query(target=HOSTILE, client="10.1.2.3")
    (tmp_path / "page.html").write_text(router_page(STATES[name], query, FORM))
    page, told = opened(browser, tmp_path / "page.html", scheme, size)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "wide things scroll by themselves"
    # It asks for itself again, which a file does not give; nothing else is asked for, and nothing runs.
    assert [text for text in told if "file:" not in text and "CORS" not in text] == []
    page.close()


def test_what_is_wrong_is_on_the_first_screen(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(router_page(STATES["not ready"], Query(report=True)))
    page, _ = opened(browser, tmp_path / "page.html", "light", DESK)
    assert "not ready" in page.title()
    box = page.locator("#wrong + ul li").first.bounding_box()
    assert box is not None
    assert box["y"] < DESK["height"]
    page.close()
