"""Links, addresses, routes, policy rules and sysctls, as desired and as observed. Printed as ip(8) prints them."""

from __future__ import annotations

from enum import StrEnum

from egress_router.config.values import Address, Family, Interface, Network
from egress_router.records import dataclass, field

MAIN_TABLE = 254
#: rtm_protocol of what an administrator configures (linux/rtnetlink.h, RTPROT_STATIC).
STATIC = 4

TABLE_NAMES = {MAIN_TABLE: "main"}


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A tunnel (RFC 7348): identifier, UDP port and the local end of the outer packets; ``learning`` MACs from them."""

    id: int
    port: int
    local: Address
    learning: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. ``mac`` is empty where the kind has none; ``lower_up`` is the carrier.

    ``master`` is the index of the bridge, bond or VRF that it belongs to. ``ipvlan_mode`` is that of ip-link(8): l2, l3
    or l3s.
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    lower_up: bool
    vxlan: Vxlan | None = None
    master: int | None = None
    ipvlan_mode: str | None = None

    @property
    def shares_mac(self) -> bool:
        """Whether others have its MAC, too: an ipvlan gets what is sent to that and to its own addresses."""
        return self.kind == "ipvlan"

    def __str__(self) -> str:
        state = "up" if self.up else "down"
        return f"{self.name} ({self.kind or 'device'}, {state})"


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address on an interface. ``global_scope`` is false for link-local and host-only ones.

    The rest does not make it another address. ``label`` is for IPv4; ``protocol`` is kept by kernels since 5.18, 0 is
    unknown. ``preferred``: the kernel may choose it as a source (RFC 6724, rule 3). ``tentative``: duplicate address
    detection (RFC 4862) is under way, ``duplicate``: it has failed. ``dynamic``: it has a lifetime, as router
    advertisements give it. ``lifetime``: seconds after which the kernel takes it away unless it is added once more;
    None: it stays. What is read has none.
    """

    interface: str
    address: Interface
    global_scope: bool = True
    label: str = field(default="", compare=False)
    protocol: int = field(default=0, compare=False)
    preferred: bool = field(default=True, compare=False)
    tentative: bool = field(default=False, compare=False)
    duplicate: bool = field(default=False, compare=False)
    dynamic: bool = field(default=False, compare=False)
    lifetime: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"address {self.address} dev {self.interface}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route. ``interface`` is None for the types that have none (``unreachable``); ``metric`` is RTA_PRIORITY.

    ``lifetime``, of IPv6 alone: seconds after which the kernel no longer uses it unless it is added once more; None: it
    stays. It does not make it another route, and what is read has none.
    """

    family: Family
    table: int
    destination: Network
    interface: str | None
    gateway: Address | None = None
    source: Address | None = None
    metric: int = 0
    type: str = "unicast"
    mtu: int | None = None
    protocol: int = STATIC
    lifetime: int | None = field(default=None, compare=False)

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
    """An ip-rule(8) entry: traffic from ``source`` / ``in_interface`` / with ``mark`` looks up ``table``.

    ``mask`` says which bits of the mark count, None: all of them. ``inverted``: it is for all other traffic (``not``).
    """

    family: Family
    priority: int
    table: int
    source: Network | None = None
    in_interface: str | None = None
    mark: int | None = None
    protocol: int = STATIC
    mask: int | None = None
    inverted: bool = False

    def __str__(self) -> str:
        source = "all" if self.source is None else str(self.source)
        iif = "" if self.in_interface is None else f" iif {self.in_interface}"
        mask = "" if self.mask is None else f"/{self.mask:#x}"
        mark = "" if self.mark is None else f" fwmark {self.mark:#x}{mask}"
        source = f"not from {source}" if self.inverted else f"from {source}"
        return f"rule {self.priority}: {source}{mark}{iif} lookup {self.table} ({self.family})"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel parameter: ``key`` as in sysctl(8) with slashes. ``required``: without it the pod is no router.
    ``missed``: one that is not required is worth a warning.
    """

    key: str
    value: int
    required: bool = True
    fix: str = ""
    missed: bool = True

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


@dataclass(frozen=True, slots=True, order=True)
class Neighbour:
    """A permanent entry of the neighbour table of an interface, see ip-neighbour(8)."""

    address: Address
    mac: str

    def __str__(self) -> str:
        return f"neighbour {self.address} lladdr {self.mac}"


@dataclass(frozen=True, slots=True, order=True)
class ForwardingEntry:
    """A permanent entry of a VXLAN's forwarding table: frames to ``mac`` go to ``destination``. See bridge(8)."""

    mac: str
    destination: Address

    def __str__(self) -> str:
        return f"forwarding entry {self.mac} dst {self.destination}"


class MacvlanMode(StrEnum):
    """Macvlan modes (ip-link(8))."""

    PRIVATE = "private"
    VEPA = "vepa"
    BRIDGE = "bridge"
    PASSTHRU = "passthru"
