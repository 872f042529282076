"""How the controller of the automatic assignment runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Times are seconds. ``witnesses`` are addresses besides the nodes' whose answers show that the controller itself
    is connected. A node that came back is given nothing for ``hold_down`` seconds, longer when it flaps.
    """

    witnesses: tuple[str, ...] = ()
    probe_interval: float = 0.5
    probe_misses: int = 3
    probe_returns: int = 3
    hold_down: float = 10.0
    probe_port: int = 4791
