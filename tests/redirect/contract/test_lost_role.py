"""A router of a pair whose role goes while its addresses are put in place, and `init` beside one that has them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from egress_router.net.arp_nd import claimed
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.redirect import plan
from egress_router.redirect.desired import desired_state
from egress_router.redirect.network_state import PROTOCOL
from egress_router.redirect.pair.values import PairConfig
from egress_router.redirect.setup import restore, set_up
from egress_router.redirect.values import Mode
from egress_router.redirect.withdraw import withdraw
from tests.net.contract.conftest import namespace
from tests.support.pods import CLUSTER, EGRESS, config

pytestmark = [pytest.mark.root, pytest.mark.usefixtures(namespace.__name__)]

CONFIG = config(pair=PairConfig(46), mode=Mode.LEGACY, backend="nftables")
OURS = {source.ip for source in CONFIG.sources.values()}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def lan() -> Iterator[socket.socket]:
    """A pod with its two interfaces; what the egress interface sends can be read."""
    for name, peer in ((CLUSTER, "node"), (EGRESS, "lan")):
        ip("link", "add", name, "type", "veth", "peer", "name", peer)
        ip("link", "set", peer, "addrgenmode", "none", "up")
        ip("link", "set", name, "addrgenmode", "none", "up")
    ip("address", "add", "10.128.0.5/24", "dev", CLUSTER)
    ip("address", "add", "2001:db8:c::5/64", "dev", CLUSTER, "nodad")
    ip("route", "add", "default", "via", "10.128.0.1")
    ip("route", "add", "default", "via", "2001:db8:c::1")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as own:
        own.bind(("lan", 3))
        own.setblocking(False)
        yield own


def announced(lan: socket.socket) -> int:
    """Return how many claims of our addresses were sent."""
    found = 0
    while True:
        try:
            claim = claimed(lan.recv(2048))
        except BlockingIOError:
            return found
        found += claim is not None and claim.address in OURS


@pytest.mark.parametrize("taken_away", [False, True])
@pytest.mark.parametrize("looks", range(4))
def test_what_is_put_in_place_meanwhile_is_gone_afterwards(lan: socket.socket, looks: int, *, taken_away: bool) -> None:
    """The role goes right after a look at it, and who hears of that first takes the address away at once, or before."""
    with Rtnetlink() as kernel:
        desired = desired_state(CONFIG, kernel.observe(), EGRESS)
        link = kernel.link(EGRESS)
        assert link is not None
        left = looks
        after: list[int] = []

        def may_hold() -> bool:
            nonlocal left
            if left == 0:
                after.append(announced(lan))
            left -= 1
            if taken_away and left == 0:
                withdraw(kernel, desired.network, link)
            return left >= 0

        restore(CONFIG, desired, may_hold)
        assert not OURS & {item.address.ip for item in kernel.addresses(link)}
        # The kernel's own route to the prefix ends with the lease.
        assert not [route for route in kernel.routes(PROTOCOL) if route.interface == EGRESS]
    assert after, "the role was looked at after it had gone"
    assert not announced(lan)


def test_a_router_that_keeps_its_role_has_its_addresses_and_says_so(lan: socket.socket) -> None:
    with Rtnetlink() as kernel:
        desired = desired_state(CONFIG, kernel.observe(), EGRESS)
        restore(CONFIG, desired)
        assert {item.address.ip for item in kernel.addresses()} >= OURS
    assert announced(lan) >= 2 * len(OURS)


@pytest.mark.usefixtures(namespace.__name__, lan.__name__)
@pytest.mark.parametrize("more", [{"pair": PairConfig(46)}, {"handover": 30}], ids=["pair", "handover"])
def test_init_again_takes_nothing_away(more: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubelets have it run again, beside the router, when ended containers were cleared away."""
    # Nobody renews it here.
    monkeypatch.setattr(plan, "LEASE_SECONDS", 60)
    first = config(mode=Mode.INIT, backend="nftables", **more)
    with Rtnetlink() as kernel:
        set_up(first, later=True)
        assert not OURS & {item.address.ip for item in kernel.addresses()}, "`run` takes them"
        restore(first, desired_state(first, kernel.observe(), EGRESS))
        desired, _ = set_up(first, later=True)
        assert {item.address.ip for item in kernel.addresses()} >= OURS
        assert desired.translation.holds


@pytest.mark.usefixtures(namespace.__name__, lan.__name__)
def test_an_address_that_the_pod_was_made_with_is_not_that_of_a_router() -> None:
    first = config(mode=Mode.INIT, backend="nftables", pair=PairConfig(46))
    for source in first.sources.values():
        ip("address", "add", str(source), "dev", EGRESS, *(["nodad"] if source.version == 6 else []))
    with Rtnetlink() as kernel:
        set_up(first, later=True)
        assert not OURS & {item.address.ip for item in kernel.addresses()}
