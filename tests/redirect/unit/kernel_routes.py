"""What the kernel makes of a network plan, as far as routes and rules go: a small pure stand-in.

Routes of one table, destination and metric exclude each other (NLM_F_REPLACE); an address with a shorter prefix than
its family's brings a connected route of protocol 2 (``kernel``), in IPv6 any address does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from egress_router.config.values import Family, Network, family_of
from egress_router.net.rtnetlink.values import MAIN_TABLE, LinkAddress, Observed, PolicyRule, Route
from egress_router.redirect.network_drift import network_drift
from egress_router.redirect.network_state import NetworkState

KERNEL = 2
#: One change, as netlink does it.
Step = Callable[[Observed], Observed]


def key(route: Route) -> tuple[Family, int, Network, int]:
    """What is unique in a kernel's routes."""
    return route.family, route.table, route.destination, route.metric


@dataclass(frozen=True)
class AddRoute:
    """Add or replace."""

    route: Route

    def __call__(self, observed: Observed) -> Observed:
        others = tuple(r for r in observed.routes if key(r) != key(self.route))
        return replace(observed, routes=(*others, self.route))


@dataclass(frozen=True)
class RemoveRoute:
    """Remove the very same; one that is gone is fine."""

    route: Route

    def __call__(self, observed: Observed) -> Observed:
        return replace(observed, routes=tuple(r for r in observed.routes if r != self.route))


@dataclass(frozen=True)
class AddRule:
    """Add a policy rule."""

    rule: PolicyRule

    def __call__(self, observed: Observed) -> Observed:
        return replace(observed, rules=(*(r for r in observed.rules if r != self.rule), self.rule))


@dataclass(frozen=True)
class RemoveRule:
    """Remove a policy rule."""

    rule: PolicyRule

    def __call__(self, observed: Observed) -> Observed:
        return replace(observed, rules=tuple(r for r in observed.rules if r != self.rule))


@dataclass(frozen=True)
class AddAddress:
    """Add an address, and the route that it brings."""

    item: LinkAddress

    def __call__(self, observed: Observed) -> Observed:
        address = self.item.address
        family = family_of(address)
        result = replace(observed, addresses=(*observed.addresses, self.item))
        if family is Family.IPV4 and address.network.prefixlen == family.bits:
            return result
        metric = 0 if family is Family.IPV4 else 256
        source = address.ip if family is Family.IPV4 else None
        connected = Route(
            family, MAIN_TABLE, address.network, self.item.interface, source=source, metric=metric, protocol=KERNEL
        )
        return result if key(connected) in map(key, observed.routes) else AddRoute(connected)(result)


@dataclass(frozen=True)
class SetUp:
    """Set a link up."""

    name: str

    def __call__(self, observed: Observed) -> Observed:
        links = tuple(replace(link, up=True) if link.name == self.name else link for link in observed.links)
        return replace(observed, links=links)


def steps(desired: NetworkState, observed: Observed) -> list[Step]:
    """The changes in the order in which the runtime makes them."""
    drift = network_drift(desired, observed)
    by_cluster = [route for route in drift.missing_routes if route.interface == desired.cluster]
    found: list[Step] = [AddRoute(route) for route in by_cluster if route.table != MAIN_TABLE]
    found += [AddRule(rule) for rule in drift.missing_rules]
    found += [RemoveRule(rule) for rule in drift.unexpected_rules]
    found += [SetUp(desired.egress)] if drift.link_down else []
    found += [AddAddress(item) for item in drift.missing_addresses]
    found += [AddRoute(route) for route in drift.missing_routes if route.interface != desired.cluster]
    found += [AddRoute(route) for route in by_cluster if route.table == MAIN_TABLE]
    found += [RemoveRoute(route) for route in drift.unexpected_routes]
    return found


def apply(changes: list[Step], observed: Observed) -> Observed:
    """Make all changes."""
    for change in changes:
        observed = change(observed)
    return observed
