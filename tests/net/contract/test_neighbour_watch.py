"""Questions to gateways, and what the kernel on the other side makes of them."""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from ipaddress import ip_address

import pytest

from egress_router.net.neighbour_watch import NeighbourWatch
from egress_router.net.rtnetlink.kernel import Rtnetlink

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace")]

GATEWAY = ip_address("2001:db8:2::1")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def test_who_has_no_address_does_not_take_that_of_a_gateway_that_starts() -> None:
    """A question from :: is duplicate address detection (RFC 4862, 5.4.3): the gateway would give its address up."""
    ip("link", "add", "gateway", "type", "veth", "peer", "name", "router")
    for name in ("gateway", "router"):
        ip("link", "set", name, "addrgenmode", "none", "up")
    with Rtnetlink() as kernel:
        link = kernel.link("router")
    assert link is not None
    with closing(NeighbourWatch(link.name, link.index, link.mac)) as watch:
        ip("address", "add", f"{GATEWAY}/64", "dev", "gateway")
        end = time.monotonic() + 10
        heard = []
        while not heard:
            watch.ask(GATEWAY, None)
            time.sleep(0.1)
            heard = watch.heard()
            shown = ip("address", "show", "dev", "gateway")
            assert "dadfailed" not in shown, shown
            assert time.monotonic() < end, "an answer comes as soon as the gateway has its address"
    assert {claim.address for claim in heard} == {GATEWAY}
