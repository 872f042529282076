"""The fleet's page as people meet it: in a browser, on a phone, in the dark, by a screen reader, by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from egress_router.cli.main import run
from egress_router.daemon.page.query import Query
from egress_router.egressip.api import ClusterState
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.fleet.history import History
from egress_router.egressip.fleet.page import fleet_page
from egress_router.egressip.fleet.view import Fleet, fleet_view
from egress_router.egressip.health import Health
from tests.egressip.unit.test_fleet import HOSTILE, NOW, state
from tests.support.browser import DESK, PHONE, opened

pytestmark = pytest.mark.root


def fleet(cluster: ClusterState, offline: tuple[str, ...] = ()) -> Fleet:
    history = History()
    history.observe(decide(cluster), dict.fromkeys(cluster.nodes, Health.UP), NOW - 60)
    health = {name: Health.DOWN if name in offline else Health.UP for name in cluster.nodes}
    history.observe(decide(cluster, offline), health, NOW - 30)
    return fleet_view(cluster, decide(cluster, offline), health, history, NOW)


STATES = {
    "empty": fleet(ClusterState()),
    "fine": fleet(state()),
    "a node down": fleet(state(), ("node-2",)),
    "hostile": fleet(state((HOSTILE, "bank")), ("node-1",)),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)], ids=["desk", "phone"])
def test_everybody_can_read_it(browser: Browser, tmp_path: Path, name: str, scheme: str, size: dict[str, int]) -> None:
    (tmp_path / "fleet.html").write_text(fleet_page(STATES[name], Query(report=True)))
    page, told = opened(browser, tmp_path / "fleet.html", scheme, size)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "wide things scroll by themselves"
    assert told == []
    page.close()


def test_the_check_for_readers_can_fail(browser: Browser, tmp_path: Path) -> None:
    """The control: a picture without words is found."""
    (tmp_path / "bad.html").write_text("<html><body><img src='data:,'><input></body></html>")
    page, _ = opened(browser, tmp_path / "bad.html", "light", DESK)
    assert Axe().run(page).violations_count > 0
    page.close()


def test_hostile_names_are_text(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "fleet.html").write_text(fleet_page(STATES["hostile"], Query(report=True)))
    page, told = opened(browser, tmp_path / "fleet.html", "light", DESK)
    assert HOSTILE in page.inner_text("#main"), "shown as it is"
    assert page.locator("script").count() == 0
    assert told == []
    page.close()


def test_what_is_wrong_is_seen_at_once(browser: Browser, tmp_path: Path) -> None:
    """Which pods lose traffic now, and where to look: without a click, in the first screen of a desk."""
    (tmp_path / "fleet.html").write_text(fleet_page(STATES["a node down"], Query(report=True)))
    page, _ = opened(browser, tmp_path / "fleet.html", "light", DESK)
    assert "cut off" in page.title()
    wrong = page.locator("#wrong + ul li")
    assert wrong.nth(0).inner_text().endswith("HostSubnet/node-2")
    box = wrong.nth(1).bounding_box()
    assert box is not None
    assert box["y"] < DESK["height"]
    assert "192.0.2.54 released: node-2 → nobody (node node-2 is down)" in page.inner_text("#changes + ol")
    page.close()


def test_a_report_is_written(browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/a.yaml").write_text(
        "{kind: NetNamespace, metadata: {name: shop}, netid: 1, egressIPs: [192.0.2.45]}\n---\n"
        "{kind: HostSubnet, metadata: {name: node-1}, hostIP: 192.0.2.11, egressIPs: [192.0.2.45]}\n"
    )
    where = tmp_path / "fleet.html"
    assert run(["egressip", "report", "--state", str(tmp_path / "state"), "--html", str(where)]) == 0
    assert capsys.readouterr().out == f"{where}: 1 egress IP, 1 node; fine\n"
    page, told = opened(browser, where, "light", DESK)
    assert page.locator("#addresses + div tbody th").inner_text() == "192.0.2.45"
    assert "not probed" in page.inner_text("#nodes + div")
    assert told == []
    page.close()
