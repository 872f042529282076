"""How the names of the DNS proxy in force are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from egress_router.config.values import Address, HostName
from egress_router.dns.cache import CacheEntry
from egress_router.dns_proxy.destinations import DnsProxyConfig
from egress_router.errors import printable


@dataclass(frozen=True, slots=True)
class DnsProxyState:
    """The configuration in force, what is believed of its names, the addresses that serve, and how many look-ups of a
    name brought no answer.
    """

    config: DnsProxyConfig
    entries: Mapping[HostName, CacheEntry]
    addresses: Mapping[HostName, Sequence[Address]]
    failures: Callable[[HostName], int]

    def dead(self) -> bool:
        """Whether no connection of any line would be served. One dead name does not stop the others."""
        lines = self.config.destinations
        return bool(lines) and all(item.name and not self.addresses.get(item.name) for item in lines)

    def silent_names(self) -> list[str]:
        """Return which names have no address that serves, and why, a sentence each."""
        silent = [name for name in self.config.names if not self.addresses.get(name)]
        return [f"{name} has no address: {self.problem(name)}" for name in silent]

    def answered(self, name: HostName) -> float | None:
        """Return when the last good answer for a name came (monotonic seconds); None when none did."""
        entry = self.entries.get(name)
        return max((item.confirmed for item in entry.serving.values()), default=None) if entry else None

    def problem(self, name: HostName) -> str:
        """Return what is wrong with the last look-up of a name; empty when nothing is."""
        return printable(self.entries[name].problem) if name in self.entries else "no answer yet"
