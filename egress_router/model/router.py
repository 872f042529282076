"""What the EGRESS_* variables of the redirect router say, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from egress_router.model.addresses import Address, Family, Interface, Network, family_of
from egress_router.model.names import HostName


class Protocol(StrEnum):
    """A transport protocol that has ports."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"

    @property
    def number(self) -> int:
        """The protocol number (IANA)."""
        return {"tcp": 6, "udp": 17, "sctp": 132}[self.value]


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


class MacvlanMode(StrEnum):
    """Macvlan modes (ip-link(8))."""

    PRIVATE = "private"
    VEPA = "vepa"
    BRIDGE = "bridge"
    PASSTHRU = "passthru"


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports ``first`` to ``last``, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


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

    def __str__(self) -> str:
        return "\n".join(map(str, self.all))


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Everything that the network half and the redirect rules need. ``sources`` and ``gateways`` have the same keys.

    ``health_port`` is the long-lived router's own; None for one that sets up and is gone.
    """

    mode: Mode
    sources: dict[Family, Interface]
    gateways: dict[Family, Address]
    rules: Ruleset = Ruleset()
    backend: Backend = Backend.AUTO
    interface: str | None = None
    parent_interface: str | None = None
    host_netns: str | None = None
    macvlan_mode: MacvlanMode = MacvlanMode.PRIVATE
    cluster_cidrs: tuple[Network, ...] = field(default=())
    dad: bool = True
    health_port: int | None = None
