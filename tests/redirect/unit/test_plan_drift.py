"""Every kind of difference is seen, and nothing that is not ours."""

from __future__ import annotations

from dataclasses import replace

from egress_router.net.rtnetlink.values import Observed, PolicyRule
from egress_router.redirect.network_drift import network_drift
from egress_router.redirect.network_state import EGRESS_TABLE, PROTOCOL
from egress_router.redirect.plan import plan_network
from tests.redirect.unit.kernel_routes import apply, steps
from tests.support.pods import BRIDGED, EGRESS, IPV4, IPV6, OTHER, config, route

DESIRED = plan_network(config(IPV4), BRIDGED, EGRESS)
DONE = apply(steps(DESIRED, BRIDGED), BRIDGED)


def drift(observed: Observed) -> list[str]:
    return network_drift(DESIRED, observed).lines()


def test_none() -> None:
    assert drift(DONE) == []


def test_each_desired_item_is_missed() -> None:
    for item in DESIRED.routes:
        assert drift(replace(DONE, routes=tuple(r for r in DONE.routes if r != item))) == [f"- {item}"]
    for rule in DESIRED.rules:
        assert drift(replace(DONE, rules=tuple(r for r in DONE.rules if r != rule))) == [f"- {rule}"]
    for address in DESIRED.addresses:
        assert drift(replace(DONE, addresses=tuple(a for a in DONE.addresses if a != address))) == [f"- {address}"]


def test_link_down_or_gone() -> None:
    down = tuple(replace(link, up=False) for link in DONE.links)
    assert drift(replace(DONE, links=down)) == ["- the egress interface up"]
    assert drift(replace(DONE, links=())) == ["- the egress interface up"]


def test_what_is_ours_or_leads_past_us_is_unexpected() -> None:
    for item in (
        route(IPV4, "198.51.100.0/24", OTHER, table=EGRESS_TABLE),
        route(IPV4, "198.51.100.0/24", OTHER, protocol=PROTOCOL),
        route(IPV4, "default", OTHER, "10.9.0.1", metric=500),
    ):
        assert drift(replace(DONE, routes=(*DONE.routes, item))) == [f"+ {item}"]
    rule = PolicyRule(IPV4, 14609, 100, protocol=PROTOCOL)
    assert drift(replace(DONE, rules=(*DONE.rules, rule))) == [f"+ {rule}"]


def test_what_belongs_to_others_is_not_looked_at() -> None:
    theirs = (
        route(IPV4, "198.51.100.0/24", OTHER),
        route(IPV4, "default", OTHER, "10.9.0.1", table=100),
        route(IPV6, "default", OTHER, "fe80::9", metric=5),
    )
    rules = (PolicyRule(IPV4, 14610, 100, protocol=PROTOCOL), PolicyRule(IPV4, 14599, 100, protocol=PROTOCOL))
    assert drift(replace(DONE, routes=(*DONE.routes, *theirs), rules=(*DONE.rules, *rules))) == []
