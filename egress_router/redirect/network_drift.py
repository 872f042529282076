"""Desired against actual: what is missing in a pod's network, and what is there but not desired."""

from __future__ import annotations

from egress_router.config.values import family_of
from egress_router.net.rtnetlink.values import MAIN_TABLE, LinkAddress, Observed, PolicyRule, Route
from egress_router.records import dataclass
from egress_router.redirect.network_state import CLUSTER_TABLE, EGRESS_TABLE, PROTOCOL, RULE_PRIORITIES, NetworkState


@dataclass(frozen=True, slots=True)
class Drift:
    """The difference between the desired and the actual network."""

    missing_addresses: tuple[LinkAddress, ...] = ()
    missing_routes: tuple[Route, ...] = ()
    missing_rules: tuple[PolicyRule, ...] = ()
    unexpected_addresses: tuple[LinkAddress, ...] = ()
    unexpected_routes: tuple[Route, ...] = ()
    unexpected_rules: tuple[PolicyRule, ...] = ()
    link_down: bool = False

    def lines(self) -> list[str]:
        """Describe the difference, a line each: ``-`` is missing, ``+`` is there and should not be."""
        missing = (*self.missing_addresses, *self.missing_routes, *self.missing_rules)
        unexpected = (*self.unexpected_addresses, *self.unexpected_routes, *self.unexpected_rules)
        down = ["- the egress interface up"] if self.link_down else []
        return [*down, *(f"- {item}" for item in missing), *(f"+ {item}" for item in unexpected)]


def network_drift(desired: NetworkState, observed: Observed) -> Drift:
    """Compare ``desired`` with ``observed``. Foreign routes and rules are not looked at, except default routes that
    would take traffic past the egress interface, and the addresses of a router that does not hold them.
    """
    routes = desired.present_routes
    families = {family_of(item.address) for item in desired.addresses}
    ours = [
        r
        for r in observed.routes
        if r.table in (CLUSTER_TABLE, EGRESS_TABLE) or (r.table == MAIN_TABLE and r.protocol == PROTOCOL)
    ]
    past_us = [r for r in observed.routes if r.table == MAIN_TABLE and r.is_default and r.family in families]
    actual_rules = [r for r in observed.rules if r.priority in RULE_PRIORITIES and r.protocol == PROTOCOL]
    link = observed.link(desired.egress)
    # One that the kernel's own duplicate address detection refuses is there, but nothing can leave with it.
    usable = [item for item in observed.addresses if not item.duplicate]
    withheld = () if desired.held else desired.addresses
    return Drift(
        missing_addresses=tuple(item for item in desired.present_addresses if item not in usable),
        missing_routes=tuple(r for r in routes if r not in ours),
        missing_rules=tuple(r for r in desired.rules if r not in actual_rules),
        unexpected_addresses=tuple(item for item in withheld if item in observed.addresses),
        unexpected_routes=tuple(dict.fromkeys(r for r in (*ours, *past_us) if r not in routes)),
        unexpected_rules=tuple(r for r in actual_rules if r not in desired.rules),
        link_down=link is None or not link.up,
    )
