"""How the names of the DNS proxy in force fare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from egress_router.errors import printable
from egress_router.model.addresses import Address
from egress_router.model.dns_proxy import DnsProxyConfig
from egress_router.model.names import HostName
from egress_router.plan.name_answers import Belief


@dataclass(frozen=True, slots=True)
class DnsProxyState:
    """The configuration in force, what is believed of its names, the addresses that serve, and how many look-ups of a
    name brought no answer.
    """

    config: DnsProxyConfig
    beliefs: Mapping[HostName, Belief]
    addresses: Mapping[HostName, Sequence[Address]]
    failures: Callable[[HostName], int]

    def dead(self) -> bool:
        """Whether no connection at all would be served. One dead name does not stop the others."""
        return all(item.name and not self.addresses.get(item.name) for item in self.config.destinations)

    def silent_names(self) -> list[str]:
        """Return which names have no address that serves, and why, a sentence each."""
        silent = [name for name in self.config.names if not self.addresses.get(name)]
        return [f"{name} has no address: {self.problem(name)}" for name in silent]

    def problem(self, name: HostName) -> str:
        """Return what is wrong with the last look-up of a name; empty when nothing is."""
        return printable(self.beliefs[name].problem) if name in self.beliefs else "no answer yet"
