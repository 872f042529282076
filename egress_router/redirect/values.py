"""What the variables of the redirect router say, and what follows from them for the pod, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from ipaddress import IPv4Network

from egress_router.config.values import Address, Family, HostName, Interface, Network, PortRange, Protocol, family_of
from egress_router.net.rtnetlink.values import MacvlanMode
from egress_router.records import dataclass, field
from egress_router.redirect.network_state import NetworkState
from egress_router.redirect.pair.values import PairConfig


class Mode(StrEnum):
    """EGRESS_ROUTER_MODE, as the upstream image understands it."""

    INIT = "init"
    LEGACY = "legacy"
    HTTP_PROXY = "http-proxy"
    DNS_PROXY = "dns-proxy"

    @property
    def redirects(self) -> bool:
        """Whether the mode translates and forwards (the proxy modes only need the network half)."""
        return self in (Mode.INIT, Mode.LEGACY)


class Backend(StrEnum):
    """Which part of the kernel translates addresses."""

    AUTO = "auto"
    IPTABLES = "iptables"
    NFTABLES = "nftables"


class FlowOffload(StrEnum):
    """Whether established connections go around the rules, by a flow table: if the kernel has them, always, never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Redirect:
    """One rule: connections to ``ports`` of the pod go to ``to_ports`` of ``address``.

    ``line`` is where it stands. ``to_ports`` has as many ports as ``ports``; the n-th goes to the n-th.
    """

    line: int
    protocol: Protocol
    ports: PortRange
    address: Address
    to_ports: PortRange

    @property
    def family(self) -> Family:
        """The family of the destination."""
        return family_of(self.address)

    @property
    def same_ports(self) -> bool:
        """Whether the port stays as it is."""
        return self.ports == self.to_ports

    def __str__(self) -> str:
        tail = "" if self.same_ports else f" {self.to_ports}"
        return f"{self.ports} {self.protocol} {self.address}{tail}"


@dataclass(frozen=True, slots=True)
class Fallback:
    """The rule for every port that no other rule claims; the port stays as it is."""

    line: int
    address: Address

    @property
    def family(self) -> Family:
        """The family of the destination."""
        return family_of(self.address)

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class NamedRedirect:
    """A redirect to the addresses of a name, each family's for its own clients. Fields as those of Redirect."""

    line: int
    protocol: Protocol
    ports: PortRange
    name: HostName
    to_ports: PortRange

    @property
    def same_ports(self) -> bool:
        """Whether the port stays as it is."""
        return self.ports == self.to_ports

    def __str__(self) -> str:
        tail = "" if self.same_ports else f" {self.to_ports}"
        return f"{self.ports} {self.protocol} {self.name}{tail}"


@dataclass(frozen=True, slots=True)
class NamedFallback:
    """A fallback, of all families, to the addresses of a name."""

    line: int
    name: HostName

    def __str__(self) -> str:
        return str(self.name)


Rule = Redirect | NamedRedirect | Fallback | NamedFallback


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All redirect rules in the order of their lines, and at most one fallback per family. A rule with a name has every
    family.

    No two redirects of one family claim the same (protocol, port).
    """

    redirects: tuple[Redirect, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    named: tuple[NamedRedirect, ...] = ()
    named_fallback: NamedFallback | None = None

    @property
    def all(self) -> tuple[Rule, ...]:
        """All rules in the order of their lines; fallbacks are last."""
        if not self.named and self.named_fallback is None:
            return (*self.redirects, *self.fallbacks)
        last = () if self.named_fallback is None else (self.named_fallback,)
        return tuple(sorted((*self.redirects, *self.named, *self.fallbacks, *last), key=lambda rule: rule.line))

    @property
    def claims(self) -> tuple[Redirect | NamedRedirect, ...]:
        """The rules that claim ports."""
        claims: tuple[Redirect | NamedRedirect, ...] = self.redirects
        return claims + self.named

    @property
    def addressed(self) -> bool:
        """Whether there are rules with an address."""
        return bool(self.redirects or self.fallbacks)

    @property
    def names(self) -> tuple[HostName, ...]:
        """Every name, once."""
        last = () if self.named_fallback is None else (self.named_fallback.name,)
        return tuple(dict.fromkeys((*(rule.name for rule in self.named), *last)))

    def as_text(self) -> str:
        """Return the rules as a list in which each stands on its line."""
        by_line = {rule.line: str(rule) for rule in self.all}
        return "".join(f"{by_line.get(line, '')}\n" for line in range(1, max(by_line, default=0) + 1))

    def __str__(self) -> str:
        return "\n".join(map(str, self.all))


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Everything that the network half and the redirect rules need. ``sources`` and ``gateways`` have the same keys.

    ``dad_wait`` is for how many seconds an address that is in use is waited for. ``health_port`` is the long-lived
    router's own; None for one that sets up and is gone. ``pair``: it is one of several with these ``sources``, and
    ``holds``: it has them. ``handover``: its successor starts beside it; for how many seconds one that leaves waits for
    that, 0 when it does not.
    """

    mode: Mode
    sources: dict[Family, Interface]
    gateways: dict[Family, Address]
    rules: Ruleset = Ruleset()
    backend: Backend = Backend.AUTO
    flow_offload: FlowOffload = FlowOffload.AUTO
    interface: str | None = None
    parent_interface: str | None = None
    host_netns: str | None = None
    macvlan_mode: MacvlanMode = MacvlanMode.BRIDGE
    cluster_cidrs: tuple[Network, ...] = field(default=())
    dad: bool = True
    dad_wait: float = 50.0
    health_port: int | None = None
    pair: PairConfig | None = None
    holds: bool = True
    handover: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """A TCP destination that must accept connections for the router to be ready."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The long-lived router. ``grace``, ``announce_interval`` (0: never) and ``probe_interval`` are seconds, and so is
    ``name_hold``: how long the last good answer for a name serves while DNS fails. ``delay``: how long it takes new
    connections when it was told to leave; None: as long as it is there, and ready. ``page``: whether people
    get one at `/`; ``page_hosts``: further names that it is served by.

    The health port stands in ``router``: the translation must not claim it.
    """

    router: RouterConfig
    grace: int = 30
    delay: int | None = 0
    announce_interval: int = 30
    probe_interval: int = 3
    checks: tuple[Check, ...] = ()
    name_hold: int = 3600
    page: bool = True
    page_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """A rule with a name, for one family: each new connection goes to one of ``addresses`` by chance, all of them
    alike. Without any it is dropped.
    """

    rule: NamedRedirect | NamedFallback
    family: Family
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Translation:
    """Desired translation and filter of a pod.

    New connections that reach ``pod_addresses`` by ``cluster`` are sent to the destinations of ``rules``; what leaves
    by ``egress`` gets its family's address of ``sources``; nothing else is forwarded, nothing new comes in by
    ``egress``, and the pod itself opens connections through ``cluster`` only to ``cluster_prefixes``.
    ``health_port`` is a TCP port that no fallback claims. Without ``accepting`` established connections go on, and new
    ones are not redirected. ``answers`` has the addresses of the names in ``rules``; None where they are not known and
    do not matter.

    ``offload``: established TCP connections and UDP flows may go around the rules, where the kernel can do that.

    ``adverts`` may leave and come: VRRP of a pair, from sources of that network; None without a pair. A router of a
    pair that does not hold its sources redirects nothing and lets nothing else out. They go by the egress interface, or
    by ``adverts_by``, and from there to other pods' UDP port ``pair_port``, which no fallback claims.
    """

    egress: str
    cluster: str
    pod_addresses: dict[Family, tuple[Address, ...]]
    sources: dict[Family, Address]
    rules: Ruleset
    cluster_prefixes: dict[Family, tuple[Network, ...]]
    health_port: int | None = None
    accepting: bool = True
    answers: Mapping[HostName, tuple[Address, ...]] | None = field(default_factory=dict)
    adverts: IPv4Network | None = None
    adverts_by: str | None = None
    pair_port: int | None = None
    holds: bool = True
    offload: FlowOffload = FlowOffload.OFF

    def spreads(self, family: Family) -> Iterator[Spread]:
        """Yield what each rule with a name does in ``family``, the fallback last; nothing in one without a source."""
        if family not in self.sources:
            return
        for rule in self.rules.named:
            yield self._spread(rule, family)
        if self.rules.named_fallback is not None:
            yield self._spread(self.rules.named_fallback, family)

    def _spread(self, rule: NamedRedirect | NamedFallback, family: Family) -> Spread:
        found = (self.answers or {}).get(rule.name, ())
        return Spread(rule, family, tuple(address for address in found if family_of(address) is family))


@dataclass(frozen=True, slots=True)
class Counters:
    """Traffic of one line, both directions: packets, bytes, and connections that were translated."""

    connections: int = 0
    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Counters) -> Counters:
        """Return the traffic of both."""
        return Counters(self.connections + other.connections, self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Desired:
    """Network and translation, which are planned together."""

    network: NetworkState
    translation: Translation
