"""The network of a redirect router: its tables, rules and numbers, and the state that it shall have."""

from __future__ import annotations

from ipaddress import IPv4Network

from egress_router.config.values import Address, Family, Network
from egress_router.net.rtnetlink.values import LinkAddress, PolicyRule, Route, Sysctl
from egress_router.records import dataclass

#: rtm_protocol of every route and policy rule of ours (rtnetlink(7): values above 4 are for the administrator).
PROTOCOL = 146
#: Replies to the cluster: a copy of the cluster interface's own routes.
CLUSTER_TABLE = 14600
#: Forwarded connections: only ever out of the egress interface.
EGRESS_TABLE = 14601
#: Mark of the ICMP errors that the pod itself sends to a client; they go by CLUSTER_TABLE.
CLUSTER_MARK = 0x14600
#: Policy rules of ours have priorities in this range.
RULE_PRIORITIES = range(14600, 14610)
#: Adverts of a pair bear a source of this network unless EGRESS_PAIR_ADDRESS says which: a part of the link-local one
#: (RFC 3927) where nothing of clouds and clusters is (metadata services, name servers of a node, gateways of CNIs).
ADVERT_SOURCES = IPv4Network("169.254.192.0/18")


@dataclass(frozen=True, slots=True)
class NetworkState:
    """The desired state of the pod's network, in the order in which it is put in place.

    ``displaced`` are default routes of the cluster side that must leave the main table; they live on in
    CLUSTER_TABLE. ``cluster_prefixes`` are what the pod itself may reach through the cluster interface.

    ``addresses`` and ``routes`` are those of a router that has its addresses; one that is not ``held`` is a standby,
    and has neither the addresses nor a route out of the egress interface.
    """

    egress: str
    cluster: str
    pod_addresses: dict[Family, tuple[Address, ...]]
    cluster_prefixes: dict[Family, tuple[Network, ...]]
    addresses: tuple[LinkAddress, ...]
    routes: tuple[Route, ...]
    rules: tuple[PolicyRule, ...]
    sysctls: tuple[Sysctl, ...]
    displaced: tuple[Route, ...] = ()
    held: bool = True

    @property
    def present_addresses(self) -> tuple[LinkAddress, ...]:
        """The addresses that shall be there now."""
        return self.addresses if self.held else ()

    @property
    def present_routes(self) -> tuple[Route, ...]:
        """The routes that shall be there now."""
        return self.routes if self.held else tuple(r for r in self.routes if not self._leads_out(r))

    def egress_routes(self, family: Family) -> tuple[Route, ...]:
        """Return the routes of a family that lead out of the egress interface, in their order."""
        return tuple(r for r in self.routes if self._leads_out(r) and r.family is family)

    def _leads_out(self, route: Route) -> bool:
        # Nothing is sent to where adverts come from: that route is for the reverse path filter.
        return route.interface == self.egress and route.destination != ADVERT_SOURCES
