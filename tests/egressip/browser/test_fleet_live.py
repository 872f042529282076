"""The page that a real controller serves, in a browser, while a node loses its power."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Playwright

from egress_router import __version__
from lab import Lab
from tests.egressip.kernel.egress_cluster import EgressCluster
from tests.support.browser import browser_in, screenshot

pytestmark = pytest.mark.root

URL = "http://127.0.0.1:9911/"
FIRST = "192.0.2.45"


@pytest.fixture
def cluster(make_lab: Callable[..., Lab], tmp_path: Path) -> EgressCluster:
    """Nodes 1 and 2 may be given addresses; node 0 has the controller and the browser."""
    cluster = EgressCluster(make_lab(nodes=3, shape="bridge"), tmp_path / "state")
    for node in cluster.lab.nodes[1:]:
        cluster.change("HostSubnet", cluster.name(node), egressCIDRs=["192.0.2.40/29"])
    cluster.namespace("toto", FIRST)
    cluster.namespace("plain")
    cluster.pod("client", "toto", 0)
    return cluster


@pytest.fixture
def page(playwright: Playwright, cluster: EgressCluster, tmp_path: Path) -> Iterator[Page]:
    """A browser on the first node."""
    with browser_in(playwright, cluster.lab.nodes[0].netns, tmp_path) as opened:
        yield opened


def test_a_node_loses_its_power_before_our_eyes(cluster: EgressCluster, page: Page) -> None:
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("request", lambda request: told.append(request.url) if not request.url.startswith(URL) else None)
    lab = cluster.lab
    cluster.start()
    controller = cluster.start_controller(
        "controller", lab.nodes[0], probe_interval="0.1", hold_down="1", health_address="127.0.0.1"
    )
    cluster.until(lambda: "assigns" in cluster.logs["controller"].read_text())
    cluster.settle()
    response = page.goto(URL)
    assert response is not None
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert "set-cookie" not in response.headers
    row = page.locator("#addresses + div tbody tr")
    page.wait_for_selector("#addresses + div tbody td:has-text('in use')", timeout=15_000)
    page.wait_for_function("document.title.includes('fine')")
    holder = re.search(r"in use\s+(\S+)", row.inner_text())
    assert holder is not None
    first = next(node for node in lab.nodes if node.name == holder.group(1))
    # What agents tell comes by and by: by which ways the holder is reached, and which version runs.
    page.wait_for_selector("#addresses + div tbody td:has-text('ICMP, tunnel, agent work')", timeout=20_000)
    page.wait_for_selector(f"#nodes + div tbody td:has-text('{__version__}')", timeout=20_000)
    assert Axe().run(page).violations_count == 0
    screenshot(page, "fleet")
    # Without a reload by hand: it moves, and the page says why.
    lab.unplug(first)
    changes = page.locator("#changes + ol li")
    page.wait_for_selector(f"#changes + ol li:has-text('{FIRST} failed over')", timeout=15_000)
    assert f"node {first.name} is down" in " ".join(changes.all_inner_texts())
    assert first.name not in row.inner_text()
    page.wait_for_selector("#nodes + div tbody td:has-text('ICMP fails')", timeout=15_000)
    assert page.locator("#wrong + ul li").first.inner_text().endswith(f"HostSubnet/{first.name}")
    screenshot(page, "fleet-node-down")
    # A filter by keyboard alone; its address can be sent to a colleague.
    page.locator("#q").focus()
    page.keyboard.type("toto")
    page.keyboard.press("Enter")
    page.wait_for_url(URL + "?q=toto")
    assert page.locator("#namespaces + div tbody tr").count() == 1
    assert page.locator("#nodes + div tbody").inner_text().strip() == "none that fits"
    # With which address does this pod leave, and by which node.
    page.locator("#target").fill("203.0.113.7")
    page.locator("#client").fill("toto/client")
    page.keyboard.press("Enter")
    page.wait_for_url(URL + "?target=203.0.113.7&client=toto%2Fclient#ask")
    reply = page.locator("#replies li").first.inner_text()
    assert re.search(rf"allowed pod toto/client \(\S+ on \S+\) to 203.0.113.7: with {FIRST} by \S+, through", reply)
    assert first.name not in reply
    # The server goes away: what is shown stays, and says how old it is.
    controller.terminate()
    assert controller.wait(5) == 0
    page.wait_for_selector("#stale:has-text('the server does not answer')", timeout=30_000)
    assert FIRST in page.inner_text("#main")
    assert [text for text in told if "ERR_CONNECTION_REFUSED" not in text] == []


def test_without_a_script_it_is_the_same(cluster: EgressCluster) -> None:
    cluster.start_controller("controller", cluster.lab.nodes[0], health_address="127.0.0.1")
    cluster.until(lambda: "assigns" in cluster.logs["controller"].read_text())
    curl = ["curl", "-s", "--compressed", URL + "?q=toto"]
    cluster.until(lambda: "toto" in cluster.lab.nodes[0].run(curl).stdout)


def test_nobody_else_sees_it_unless_asked(cluster: EgressCluster) -> None:
    node, other = cluster.lab.nodes[:2]
    cluster.start_controller("controller", node)
    cluster.until(lambda: "assigns" in cluster.logs["controller"].read_text())
    url = f"http://{node.addresses[4]}:9911/"
    assert other.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url + "healthz"]).stdout == "200"
    assert other.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url]).stdout == "404"
