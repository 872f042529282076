"""What the long-lived router needs besides what every router needs."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.model.addresses import Address
from egress_router.model.router import RouterConfig

#: EGRESS_HEALTH_PORT's default: /healthz, /readyz and /metrics of every process that stays.
HEALTH_PORT = 9909


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
    ``name_hold``: how long the last good answer for a name serves while DNS fails.

    The health port stands in ``router``: the translation must not claim it.
    """

    router: RouterConfig
    grace: int = 30
    announce_interval: int = 30
    probe_interval: int = 3
    checks: tuple[Check, ...] = ()
    name_hold: int = 3600
