"""EGRESS_FLOW_OFFLOAD on this kernel, whether it has flow tables or not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Lab
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, Router, assert_answered_by

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n"
ASK = "from egress_router.net.nft.flow_probe import why_no_flow_table as why; print(why())"


@pytest.fixture
def router(make_lab: Callable[..., Lab]) -> Router:
    """A pod that is no router yet, and a server."""
    lab = make_lab(nodes=1)
    lab.echo("203.0.113.25", tcp=[80])
    return Router(lab, "nftables", rules=RULES)


def lacking(router: Router) -> str:
    """Return why the kernel has no flow tables, in the words of the probe; empty where it has."""
    return router.host.run([sys.executable, "-c", ASK]).stdout.strip()


def test_the_question_leaves_nothing(router: Router) -> None:
    before = router.state()
    first, second = lacking(router), lacking(router)
    assert first == second
    assert router.state() == before
    assert "egress_router_probe" not in router.host.run(["nft", "list", "ruleset"]).stdout


def test_auto_says_what_it_found(router: Router) -> None:
    why = lacking(router)
    log = router.init(EGRESS_FLOW_OFFLOAD="auto").stderr
    said = f"established connections go by the rules: {why}" if why else "established connections go around the rules"
    assert said in log
    assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.25", 80)
    status = router.status()
    assert status["flow_offload"] == {"used": not why, "why_not": why}
    assert status["state"] == "ok"
    listed = router.host.run(["nft", "list", "table", "inet", "egress_router"]).stdout
    assert ("flowtable established" in listed) is (not why)


def test_on_where_it_cannot_be_changes_nothing(router: Router) -> None:
    why = lacking(router)
    before = router.state()
    done = router.init(EGRESS_FLOW_OFFLOAD="on", check=False)
    if not why:
        assert done.returncode == 0
        return
    assert done.returncode == 69
    assert f"EGRESS_FLOW_OFFLOAD=on, and {why}" in done.stderr
    assert router.state() == before


def test_with_iptables(router: Router) -> None:
    done = router.init(EGRESS_FLOW_OFFLOAD="on", EGRESS_NAT_BACKEND="iptables", check=False)
    assert done.returncode == 78
    assert "EGRESS_FLOW_OFFLOAD" in done.stderr
    log = router.init(EGRESS_NAT_BACKEND="iptables").stderr
    assert "established connections go by the rules: flow tables are nftables'" in log
    assert "EGRESS_FLOW_OFFLOAD" not in router.init(EGRESS_NAT_BACKEND="iptables", EGRESS_FLOW_OFFLOAD="off").stderr


def test_run_shows_it(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    router = LiveRouter(make_lab(nodes=1), "nftables", tmp_path, RULES)
    router.start()
    why = lacking(router)
    text = router.host.run(["curl", "-s", "http://127.0.0.1:9909/metrics"]).stdout
    assert f"\negress_router_flow_offload {0 if why else 1}" in text
    assert "\negress_router_offloaded_connections 0" in text
