"""What the NAT backends translate and filter; both do the same with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from egress_router.model.addresses import Address, Family, Network, family_of
from egress_router.model.names import HostName
from egress_router.model.router import NamedFallback, NamedRedirect, Ruleset


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
