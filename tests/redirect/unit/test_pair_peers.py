"""What routers of a pair make of others: of a peer with another list, a machine with the address, a new gateway."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from unittest.mock import Mock

import pytest

from egress_router import __version__
from egress_router.config.values import Address
from egress_router.redirect.pair import twins
from egress_router.redirect.pair.claims import CLAIM_SECONDS, DEAD_SECONDS, Claims
from egress_router.redirect.pair.state import PairState, Twin
from egress_router.redirect.pair.twins import (
    DESTINATIONS,
    SETTINGS,
    VERSION,
    Twins,
    features,
    own_page,
    proxy_lists,
    read_page,
)
from egress_router.redirect.pair.values import PairConfig, Role
from egress_router.redirect.state import State
from egress_router.redirect.uplink import PROBE_AGAIN_SECONDS, UplinkMonitor
from tests.redirect.unit.test_pair import OTHER, pair_of, parsed
from tests.support.fake_loop import fake_loop

PAIR = PairConfig(46, peers=("shop-peers",))
MINE = features(PAIR, ["192.0.2.46/24", "192.0.2.1"], "80 tcp 203.0.113.25", {})
PEER = "10.1.2.3"


def said(*differs: str, role: Role = Role.ACTIVE) -> Twin:
    return Twin(str(role), holding=True, differs=differs)


def test_who_is_alike_differs_in_nothing() -> None:
    again = features(PAIR, ["192.0.2.1", "192.0.2.46/24"], "80 tcp 203.0.113.25", {})
    page = json.dumps(own_page(PairState(PAIR, role=Role.ACTIVE, holding=True), lambda: again)).encode()
    assert read_page(page, MINE) == said()


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (features(PAIR, ["192.0.2.46/24", "192.0.2.1"], "81 tcp 203.0.113.25", {}), (DESTINATIONS,)),
        (features(PAIR, ["192.0.2.46/24", "192.0.2.1"], "80 tcp 203.0.113.25", {"X": "*"}), (DESTINATIONS,)),
        (features(PAIR, ["192.0.2.46/24"], "80 tcp 203.0.113.25", {}), ("addresses",)),
        (
            MINE
            | features(replace(PAIR, interval=0.05), [], "", {})
            | {k: MINE[k] for k in ("addresses", DESTINATIONS)},
            (SETTINGS,),
        ),
        ({**MINE, VERSION: "0"}, (VERSION,)),
        ({}, tuple(MINE)),
    ],
)
def test_what_differs_is_named(other: dict[str, str], names: tuple[str, ...]) -> None:
    page = json.dumps({"role": "active", "holding": True, "features": other}).encode()
    assert read_page(page, MINE).differs == names


@pytest.mark.parametrize(
    "page",
    [b"", b"ok", b"[]", b"1", b"{}", b'{"role": "king", "holding": true, "features": {}}', b"[" * 4000, b"\xff",
     b'{"role": "active", "features": {}}', b'{"role": "active", "holding": true, "features": 7}'],
)  # fmt: skip
def test_what_is_no_router_is_no_peer(page: bytes) -> None:
    assert read_page(page, MINE) == Twin(problem="what it says is no router of a pair's")


def test_the_list_of_the_proxy_beside_counts() -> None:
    assert proxy_lists({"EGRESS_PAIR": "46"}) == {}
    lists = proxy_lists({"EGRESS_HTTP_PROXY_DESTINATION": "*.example.com"})
    assert lists == {"EGRESS_HTTP_PROXY_DESTINATION": "*.example.com"}
    assert features(PAIR, [], "", lists) != features(PAIR, [], "", {})
    assert features(PAIR, [], "", {})[VERSION] == __version__


def test_unequal_is_unready_but_never_for_who_has_the_address() -> None:
    """What a peer says is not signed."""
    state = PairState(PAIR, twins={PEER: said(DESTINATIONS, VERSION)})
    sentence = f"its destinations and versions are not those of the peer {PEER} (active)"
    assert sentence in state.reasons(0.0)
    assert sentence not in state.warnings()
    state.role, state.holding = Role.ACTIVE, True
    state.twins = {PEER: said(DESTINATIONS, VERSION, role=Role.STANDBY)}
    assert not state.reasons(0.0)
    assert state.warnings() == [sentence.replace("active", "standby")]
    assert (state.standbys, state.differing) == (1, 1)


def test_the_active_one_says_that_nobody_stands_by() -> None:
    state = PairState(PAIR, role=Role.ACTIVE, holding=True, twins={PEER: Twin(problem="it does not answer")})
    assert state.warnings() == [
        f"peer {PEER}: it does not answer",
        "nobody stands by: no peer that answers could take the address",
    ]
    assert not state.reasons(0.0)
    # One that is not told of its peers says nothing about them.
    assert not PairState(PairConfig(46), role=Role.ACTIVE, holding=True).warnings()


def test_a_pair_is_told_of_its_peers() -> None:
    pair = pair_of(EGRESS_PAIR_PEERS="shop-peers.egress.svc, 10.1.2.3 fd00::3")
    assert pair.peers == ("shop-peers.egress.svc", "10.1.2.3", "fd00::3")


# Who has the address

#: Between two questions, and until a claim is judged.
ASKED, JUDGED = 1.0, 0.6


def test_one_that_was_killed_claims_the_address_for_a_moment() -> None:
    """A router that starts then has not heard who it was, and is not to wait as for another machine."""
    claims = Claims()
    for at in (100.0, 101.0, 101.25):
        assert claims.until(OTHER, at, ASKED + JUDGED) == pytest.approx(100.0 + DEAD_SECONDS + ASKED + JUDGED)


def test_another_machine_keeps_the_address() -> None:
    """It is never taken before its next claim would have been judged, and not for long after the last one."""
    claims = Claims()
    free = 0.0
    for second in range(20):
        at = 100.0 + second
        assert not free or free >= at + JUDGED
        free = max(free, claims.until(OTHER, at, ASKED + JUDGED))
    assert free == 119.0 + CLAIM_SECONDS
    # Long after that it is as new.
    assert claims.until(OTHER, 200.0, ASKED + JUDGED) == pytest.approx(200.0 + DEAD_SECONDS + ASKED + JUDGED)


def test_machines_are_told_apart_and_not_remembered_without_end() -> None:
    claims = Claims()
    for number in range(100):
        claims.until(f"02:00:00:00:01:{number:02x}", 100.0 + number / 100, ASKED)
    assert len(claims._heard) == 16
    assert claims.until(OTHER, 102.0, ASKED) == pytest.approx(102.0 + DEAD_SECONDS + ASKED)


def test_a_pod_of_both_families_is_one_router(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["10.1.2.2", "10.1.2.3", "fd01::2", "fd01::3"]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (one, 0)) for one in found])
    page = json.dumps(own_page(PairState(PAIR), lambda: MINE)).encode()
    monkeypatch.setattr(twins, "_page", lambda *_: (b"200", page))
    for own in (["10.1.2.2", "fd01::2"], ["fd01::2"], ["10.1.2.2"]):
        state = PairState(PAIR)
        Twins(state, 9909, lambda own=own: map(ip_address, own), lambda: MINE).ask()  # type: ignore[misc]
        assert state.standbys == 1
        assert {ip_address(one).version for one in state.twins} == {ip_address(own[0]).version}


def test_a_name_server_that_is_silent_makes_nobody_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only one of several names is not found."""
    answers: dict[str, str | OSError] = {"shop-1": "10.1.2.3", "shop-2": "10.1.2.4"}

    def look_up(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        answer = answers[name]
        if isinstance(answer, OSError):
            raise answer
        return [(0, 0, 0, "", (answer, 0))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    page = json.dumps(own_page(PairState(PAIR), lambda: MINE)).encode()
    monkeypatch.setattr(twins, "_page", lambda *_: (b"200", page))
    state = PairState(replace(PAIR, peers=tuple(answers)))
    asking = Twins(state, 9909, lambda: [ip_address("10.1.2.2")], lambda: MINE)
    met: list[list[str]] = []
    asking.met = lambda addresses: met.append(list(addresses))
    asking.ask()
    answers["shop-2"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    for _ in range(2):
        asking.ask()
        assert sorted(state.twins) == ["10.1.2.3", "10.1.2.4"]
        assert state.not_found == "EGRESS_PAIR_PEERS: shop-2 has no address: Temporary failure in name resolution"
    answers["shop-2"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    asking.ask()
    assert met == [["10.1.2.3", "10.1.2.4"]] * 3 + [["10.1.2.3"]]


# A gateway that starts


def asked_as(monitor: UplinkMonitor, gateway: Address, *, missed: bool, now: float) -> Address | None:
    return monitor._asks_as(gateway, missed=missed, now=now)


def test_a_gateway_that_may_be_starting_is_probed_seldom() -> None:
    """Its own probe and ours at once would be two machines that want the address (RFC 5227, 2.1.1)."""
    run, _ = parsed(EGRESS_SOURCE="192.0.2.46 2001:db8:2::46", EGRESS_GATEWAY="192.0.2.1 2001:db8:2::1")
    assert run is not None
    known = PairState(PAIR)
    pair = Mock(adverts_from=IPv4Address("169.254.7.1"))
    monitor = UplinkMonitor(run, State(interface="macvlan0", pair=known), fake_loop(), pair)
    gateway, gateway6 = ip_address("192.0.2.1"), ip_address("2001:db8:2::1")
    assert asked_as(monitor, gateway, missed=False, now=10.0) is None
    for tenths in range(1, int(PROBE_AGAIN_SECONDS * 10)):
        assert asked_as(monitor, gateway, missed=True, now=10.0 + tenths / 10) == pair.adverts_from
        assert asked_as(monitor, gateway6, missed=True, now=10.0 + tenths / 10) is None
    assert asked_as(monitor, gateway, missed=True, now=10.0 + PROBE_AGAIN_SECONDS) is None
    assert asked_as(monitor, gateway, missed=True, now=10.1 + PROBE_AGAIN_SECONDS) == pair.adverts_from
    known.role, known.holding = Role.ACTIVE, True
    assert asked_as(monitor, gateway, missed=True, now=50.0) == ip_address("192.0.2.46")
