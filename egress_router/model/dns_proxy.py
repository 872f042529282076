"""What the EGRESS_DNS_PROXY_* variables say, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.model.addresses import Address, Family, family_of
from egress_router.model.names import HostName, NameServer


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

    @property
    def way(self) -> str:
        """Where from and where to, as in the list; the label of its figures."""
        return f"{self.port} {self.host} {self.to_port}"

    def __str__(self) -> str:
        return f"{self.way}{' check' * self.check}"


@dataclass(frozen=True, slots=True)
class DnsProxyConfig:
    """The DNS proxy router. ``idle_timeout`` and ``grace`` are seconds.

    ``sources`` has the addresses of EGRESS_SOURCE, and is empty where the variable is not set (upstream's manifests
    set it for the init container alone). ``nameservers`` is empty where resolv.conf decides.
    ``health_port`` is None for none.
    """

    destinations: tuple[Destination, ...]
    sources: Mapping[Family, Address] = field(default_factory=dict)
    nameservers: tuple[NameServer, ...] = ()
    idle_timeout: int = 3600
    grace: int = 30
    access_log: bool = True
    health_port: int | None = None

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
