"""Links, addresses, routes, policy rules and sysctls, as desired and as observed. Printed as ip(8) prints them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from egress_router.config.values import Address, Family, Interface, Network

#: rtm_protocol of every route and policy rule of ours (rtnetlink(7): values above 4 are for the administrator).
PROTOCOL = 146
#: Replies to the cluster: a copy of the cluster interface's own routes.
CLUSTER_TABLE = 14600
#: Forwarded connections: only ever out of the egress interface.
EGRESS_TABLE = 14601
MAIN_TABLE = 254
#: Mark of the ICMP errors that the pod itself sends to a client; they go by CLUSTER_TABLE.
CLUSTER_MARK = 0x14600
#: Policy rules of ours have priorities in this range.
RULE_PRIORITIES = range(14600, 14610)

TABLE_NAMES = {MAIN_TABLE: "main"}


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. ``mac`` is empty where the kind has none; ``lower_up`` is the carrier."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    lower_up: bool

    def __str__(self) -> str:
        state = "up" if self.up else "down"
        return f"{self.name} ({self.kind or 'device'}, {state})"


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address on an interface. ``global_scope`` is false for link-local and host-only ones."""

    interface: str
    address: Interface
    global_scope: bool = True

    def __str__(self) -> str:
        return f"address {self.address} dev {self.interface}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route. ``interface`` is None for the types that have none (``unreachable``); ``metric`` is RTA_PRIORITY."""

    family: Family
    table: int
    destination: Network
    interface: str | None
    gateway: Address | None = None
    source: Address | None = None
    metric: int = 0
    type: str = "unicast"
    mtu: int | None = None
    protocol: int = PROTOCOL

    @property
    def is_default(self) -> bool:
        """Whether the route matches every destination."""
        return self.destination.prefixlen == 0

    def __str__(self) -> str:
        destination = "default" if self.is_default else str(self.destination)
        parts = ["route"] if self.type == "unicast" else ["route", self.type]
        parts.append(destination)
        for word, value in (("via", self.gateway), ("dev", self.interface), ("src", self.source), ("mtu", self.mtu)):
            if value is not None:
                parts += [word, str(value)]
        parts += ["table", TABLE_NAMES.get(self.table, str(self.table)), "metric", str(self.metric)]
        return " ".join(parts) + f" ({self.family})"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """An ip-rule(8) entry: traffic from ``source`` / ``in_interface`` / with ``mark`` looks up ``table``."""

    family: Family
    priority: int
    table: int
    source: Network | None = None
    in_interface: str | None = None
    mark: int | None = None
    protocol: int = PROTOCOL

    def __str__(self) -> str:
        source = "all" if self.source is None else str(self.source)
        iif = "" if self.in_interface is None else f" iif {self.in_interface}"
        mark = "" if self.mark is None else f" fwmark {self.mark:#x}"
        return f"rule {self.priority}: from {source}{mark}{iif} lookup {self.table} ({self.family})"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel parameter: ``key`` as in sysctl(8) with slashes. ``required``: without it the pod is no router."""

    key: str
    value: int
    required: bool = True
    fix: str = ""

    @property
    def interface(self) -> str | None:
        """The interface that an IPv4 parameter is of, None for any other parameter."""
        folder, _, interface = self.key.rpartition("/")[0].rpartition("/")
        return interface if folder == "net/ipv4/conf" else None

    def __str__(self) -> str:
        return f"sysctl {self.key} = {self.value}"


@dataclass(frozen=True, slots=True)
class Observed:
    """What a network namespace holds: links, addresses, unicast routes of all tables but ``local``, policy rules."""

    links: tuple[Link, ...] = ()
    addresses: tuple[LinkAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[PolicyRule, ...] = ()

    def link(self, name: str) -> Link | None:
        """Return the link of that name, None when there is none."""
        return next((link for link in self.links if link.name == name), None)


@dataclass(frozen=True, slots=True)
class NetworkState:
    """The desired state of the pod's network, in the order in which it is put in place.

    ``displaced`` are default routes of the cluster side that must leave the main table; they live on in
    CLUSTER_TABLE. ``cluster_prefixes`` are what the pod itself may reach through the cluster interface.
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


class MacvlanMode(StrEnum):
    """Macvlan modes (ip-link(8))."""

    PRIVATE = "private"
    VEPA = "vepa"
    BRIDGE = "bridge"
    PASSTHRU = "passthru"
