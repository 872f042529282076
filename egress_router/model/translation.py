"""What the NAT backends translate and filter; both do the same with it."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.model.addresses import Address, Family, Network
from egress_router.model.router import Ruleset


@dataclass(frozen=True, slots=True)
class Translation:
    """Desired translation and filter of a pod.

    New connections that reach ``pod_addresses`` by ``cluster`` are sent to the destinations of ``rules``; what leaves
    by ``egress`` gets its family's address of ``sources``; nothing else is forwarded, nothing new comes in by
    ``egress``, and the pod itself opens connections through ``cluster`` only to ``cluster_prefixes``.
    ``health_port`` is a TCP port that no fallback claims. Without ``accepting`` established connections go on, and new
    ones are not redirected.
    """

    egress: str
    cluster: str
    pod_addresses: dict[Family, tuple[Address, ...]]
    sources: dict[Family, Address]
    rules: Ruleset
    cluster_prefixes: dict[Family, tuple[Network, ...]]
    health_port: int | None = None
    accepting: bool = True


@dataclass(frozen=True, slots=True)
class Counters:
    """Traffic of one line, both directions: packets, bytes, and connections that were translated."""

    connections: int = 0
    packets: int = 0
    bytes: int = 0
