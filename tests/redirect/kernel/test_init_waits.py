"""`init` and a list that is refused: nothing is changed, a mended list is taken, the second of a pod waits long."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Lab
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, assert_answered_by

pytestmark = pytest.mark.root

GOOD, BAD = "80 tcp 203.0.113.25\n", "80 tpc 203.0.113.25\n"
WAITS = "Waiting for at most"


@pytest.fixture
def shape() -> str:
    """What waits does nothing to the network."""
    return "bridge"


def begin(router: LiveRouter) -> subprocess.Popen[bytes]:
    """Start `init` as the kubelet does, and return when it waits."""
    told = router.log().count(WAITS)
    with router.log_file.open("a") as log:
        router.process = router.host.popen(
            [sys.executable, "-m", "egress_router", "init"], env=router.env, stdout=log, stderr=log
        )
    router.logged(WAITS, told + 1)
    return router.process


def test_a_mended_list_is_taken_and_nothing_is_changed_before(lab: Lab, tmp_path: Path) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    router = LiveRouter(lab, "nftables", tmp_path, BAD, EGRESS_ROUTER_MODE="init")
    before = router.state()
    begin(router)
    assert "EGRESS_DESTINATION_FILE line 1" in router.log(), "what is wrong stands there while it waits"
    assert router.state() == before
    router.swap("80 tpc 203.0.113.26\n")
    router.logged(WAITS, 2)
    router.swap(GOOD)
    assert router.wait() == 0
    assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.25", 80)


def test_the_first_ends_with_the_message_and_the_next_waits_until_it_is_asked_to_leave(
    lab: Lab, tmp_path: Path
) -> None:
    router = LiveRouter(lab, "nftables", tmp_path, BAD, EGRESS_ROUTER_MODE="init", EGRESS_LIST_WAIT="60")
    begun = time.monotonic()
    begin(router)
    assert router.wait() == 78
    assert time.monotonic() - begun > 9
    assert "tpc" in router.log().splitlines()[-1], "the message is the last that it says"
    begun = time.monotonic()
    process = begin(router)
    assert "at most 60 s" in router.log()
    time.sleep(11)
    assert process.poll() is None, "longer than the first"
    begun = time.monotonic()
    router.signal(signal.SIGTERM)
    assert router.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 2
    begin(router)
    router.swap(GOOD)
    assert router.wait() == 0
