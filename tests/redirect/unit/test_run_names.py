"""What the long-lived router knows of its names."""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Any

import pytest

from egress_router.config.values import Address, Family, HostName
from egress_router.dns.cache import CacheEntry, ServingAddresses
from egress_router.redirect.names import Answers, Names, after
from egress_router.redirect.state import NameState, State
from egress_router.redirect.values import Mode, RouterConfig, RunConfig

API, WEB = HostName("api.example.com"), HostName("web.example.com")
ONE, TWO = ip_address("203.0.113.25"), ip_address("203.0.113.26")


def entry(*addresses: Address, confirmed: float = 10, problem: str = "") -> CacheEntry:
    serving = {Family.IPV4: ServingAddresses(frozenset(addresses), confirmed)} if addresses else {}
    return CacheEntry("api.example.com.", serving, problem)


def test_the_state_after_look_ups() -> None:
    state = NameState()
    state = after(state, (), entry(problem="SERVFAIL"))
    assert state == NameState((), None, "SERVFAIL", 1, "api.example.com.")
    state = after(state, (ONE,), entry(ONE))
    assert state == NameState((ONE,), 10, "", 1, "api.example.com.")
    state = after(state, (ONE,), entry(ONE, problem="no reply in time"))
    assert state == NameState((ONE,), 10, "no reply in time", 2, "api.example.com.")
    state = after(state, (), entry(problem="no reply in time"))
    assert state == NameState((), 10, "no reply in time", 3, "api.example.com.")
    assert after(state, (), entry(ip_address("127.0.0.1"))).problem == "no address of the answer may be used"


def test_a_name_without_an_address_is_told_and_takes_no_other_destination_out_of_service() -> None:
    state = State("macvlan0")
    state.follow([API, WEB], only=True)
    assert state.reasons(20) == ["no destination has an address"]
    state.names[API] = NameState((ONE,), 10, "SERVFAIL", 1, "api.example.com.")
    assert state.reasons(20) == ["names are looked up for the first time"]
    state.names[WEB] = NameState((), None, "SERVFAIL", 1)
    assert state.reasons(20) == []
    (remark,) = state.warnings()
    assert remark == "web.example.com has no address: SERVFAIL; what is sent to it is dropped"
    assert state.as_json(20)["names"]["api.example.com"] == {
        "addresses": ["203.0.113.25"],
        "answer_age": 10,
        "problem": "SERVFAIL",
        "failures": 1,
        "answered_as": "api.example.com.",
    }
    state.follow([API], only=True)
    assert (state.reasons(20), state.warnings()) == ([], [])
    assert state.names[API].addresses == (ONE,), "what is known of a name that stays is kept"


class Later:
    """Keeps what should be called later."""

    def now(self) -> float:
        return 0.0

    def __init__(self) -> None:
        self.actions: list[Callable[[], object]] = []

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.actions.append(callback)


@pytest.mark.parametrize("gone", [False, True])
def test_answers_are_put_in_place_in_bunches_and_told_afterwards(gone: bool) -> None:
    state = State("macvlan0")
    state.follow([API, WEB], only=True)
    told: list[tuple[Answers, set[HostName]]] = []

    def changed(answers: Answers, names: Collection[HostName], done: Callable[[], None]) -> None:
        assert not state.names[API].addresses, "told before it is in place"
        told.append((answers, set(names)))
        done()

    loop: Any = Later()
    run = RunConfig(RouterConfig(Mode.LEGACY, {}, {}))
    names = Names(run, state, loop, changed)
    names._on_update(API, (ONE,), entry(ONE))
    names._on_update(WEB, (TWO,), entry(TWO))
    names._on_update(API, (ONE, TWO), entry(ONE, TWO))
    names._on_update(HostName("gone.example.com"), (TWO,), entry(TWO))
    if gone:
        state.follow([API], only=True)
    (put,) = loop.actions
    put()
    assert told == [({API: (ONE, TWO), WEB: (TWO,)}, {API, WEB})]
    assert state.names[API].addresses == (ONE, TWO)
    assert (WEB in state.names) != gone
