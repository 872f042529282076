"""What the EGRESS_DNS_PROXY_* variables say, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.model.addresses import Address, Family, family_of


@dataclass(frozen=True, slots=True)
class HostName:
    """A DNS name in lower case ASCII (IDNA applied). A trailing dot makes it absolute: no search domain is tried."""

    text: str

    @property
    def absolute(self) -> bool:
        """Whether it ends in a dot."""
        return self.text.endswith(".")

    @property
    def dots(self) -> int:
        """How many dots it has, the number that ``ndots`` of resolv.conf(5) is compared with."""
        return self.text.count(".")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Destination:
    """One line: TCP connections to ``port`` of the pod go to ``to_port`` of ``host``.

    ``check``: the addresses are probed by connecting, every two seconds. ``line`` is where it stands.
    """

    line: int
    port: int
    host: HostName | Address
    to_port: int
    check: bool = False

    @property
    def name(self) -> HostName | None:
        """The name to look up; None for an address."""
        return self.host if isinstance(self.host, HostName) else None

    def __str__(self) -> str:
        return f"{self.port} {self.host} {self.to_port}{' check' * self.check}"


@dataclass(frozen=True, slots=True)
class NameServer:
    """A DNS server."""

    address: Address
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return host if self.port == 53 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DnsProxyConfig:
    """The DNS proxy router. ``idle_timeout`` and ``grace`` are seconds.

    ``sources`` has the addresses of EGRESS_SOURCE, and is empty where the variable is not set (upstream's manifests
    set it for the init container alone). ``nameservers`` is empty where resolv.conf decides.
    """

    destinations: tuple[Destination, ...]
    sources: Mapping[Family, Address] = field(default_factory=dict)
    nameservers: tuple[NameServer, ...] = ()
    idle_timeout: int = 3600
    grace: int = 30
    access_log: bool = True

    @property
    def names(self) -> tuple[HostName, ...]:
        """Every name to look up, once, in the order of the lines."""
        return tuple(dict.fromkeys(item.host for item in self.destinations if isinstance(item.host, HostName)))

    def destination_of(self, port: int) -> Destination | None:
        """Return the line that listens on ``port``."""
        return next((item for item in self.destinations if item.port == port), None)

    def reachable(self, address: Address) -> bool:
        """Whether the family of ``address`` has a source (unknown sources forbid nothing)."""
        return not self.sources or family_of(address) in self.sources
