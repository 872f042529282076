"""A router and its successor, which starts beside it with the same EGRESS_SOURCE and waits for it (EGRESS_HANDOVER)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Lab
from lab.cni import BRIDGE, POINT_TO_POINT
from tests.redirect.kernel.pair import RouterPair, Stream, overlap, page, short_directory, wrong_sources
from tests.redirect.kernel.router import SOURCE4, SOURCE6
from tests.redirect.kernel.traffic import Program

pytestmark = pytest.mark.root

#: Duplicate address detection, the pause before it, and a busy machine.
MOST_SECONDS = 5.0
HANDOVER = {"EGRESS_PAIR": "", "EGRESS_HANDOVER": "20", "EGRESS_SHUTDOWN_GRACE": "30", "EGRESS_DAD_WAIT": "50"}


class OnOneNode(RouterPair):
    """Both on the first node."""

    nodes = (0, 0)


CASES = [("nftables", BRIDGE, OnOneNode), ("iptables", POINT_TO_POINT, RouterPair)]


@pytest.fixture(params=CASES, ids=["one node", "two nodes"])
def routers(request: pytest.FixtureRequest, make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[RouterPair]:
    """Two routers with one address, the first one of which runs."""
    backend, shape, kind = request.param
    with short_directory() as directory:
        pair: RouterPair = kind(make_lab(nodes=3, shape=shape), backend, tmp_path, directory, **HANDOVER)
        for router in pair.routers:
            # As `manifests` writes it: two on one node hear each other.
            router.host.ip("link set macvlan0 type macvlan mode bridge")
        pair.routers[0].start()
        yield pair


def test_the_old_one_serves_until_the_new_one_waits_for_the_address(routers: RouterPair) -> None:
    old, new = routers.routers
    rival = routers.lab.machine("rival", "192.0.2.98")
    with routers.lab.capture() as capture, Stream(routers, 4) as four, Stream(routers, 6) as six:
        # Whoever asks for the address while nobody has told the router to leave is answered, and no more.
        Program(rival, "prober").tell({"address": SOURCE4, "mac": rival.mac(), "seconds": 0.5})
        time.sleep(1)
        old.signal(signal.SIGTERM)
        old.logged("leaving when another router asks for the address")
        time.sleep(2)
        assert old.process is not None
        assert old.process.poll() is None
        assert page(old, "/readyz")[0] == 200, "a Service has nobody else to send clients to"
        # The next pod: its init container ends although the address is in use, and the router waits for it.
        assert new.init(EGRESS_ROUTER_MODE="init").returncode == 0
        assert SOURCE4 not in new.host.ip("address")
        asked = time.time()
        starting = threading.Thread(target=new.start)
        starting.start()
        assert old.wait() == 0
        ended = time.time()
        assert SOURCE4 not in old.host.ip("address")
        assert SOURCE6 not in old.host.ip("address")
        starting.join()
        for stream in (four, six):
            routers.until(lambda stream=stream: stream.answered_since(ended, new), "the new one answers")  # type: ignore[misc]
        time.sleep(0.3)
    assert "another router asks for the address; leaving" in old.log()
    assert "Waiting for at most 50 s" in new.log()
    assert not wrong_sources(capture)
    macs = str(old.macvlan_mac), str(new.macvlan_mac)
    assert overlap(capture, macs, 0.0, time.time()).packets == 0, "first the one, then the other"
    print(f"no answer for {four.gap(asked):.2f} s (IPv4), {six.gap(asked):.2f} s (IPv6)")
    assert max(four.gap(asked), six.gap(asked)) < MOST_SECONDS
    assert page(new, "/readyz")[0] == 200


def test_init_beside_a_router_that_serves_takes_nothing_away(routers: RouterPair) -> None:
    """The kubelet may run an init container again in the same network."""
    old, _ = routers.routers
    before = old.host.ip("address show dev macvlan0")
    assert SOURCE4 in before
    with Stream(routers) as answered:
        old.init(EGRESS_ROUTER_MODE="init")
        time.sleep(0.3)
        assert old.host.ip("address show dev macvlan0") == before
    assert answered.gap(0.0) < 1.0
