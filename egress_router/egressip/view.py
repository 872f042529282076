"""What an agent knows at a moment, and what has happened since it started; status and metrics show it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from egress_router.errors import Problem
from egress_router.model.egressip import ClusterState, Decision


@dataclass(slots=True)
class View:
    """Times are seconds; ``turned`` is when the loop turned last (monotonic)."""

    state: ClusterState = field(default_factory=ClusterState)
    decision: Decision = field(default_factory=lambda: Decision({}, {}, {}))
    problems: tuple[Problem, ...] = ()
    troubles: list[str] = field(default_factory=list)
    ready: bool = False
    turned: float = field(default_factory=time.monotonic)
    applies: int = 0
    failed_applies: int = 0
    apply_seconds: float = 0.0
    repairs: int = 0
