"""What the agents of nodes tell controllers of connections, source ports, drops and legs, as the fleet's page shows it.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.net.agent_figures import Figures

#: Ports that the kernel gives, of 1024 to 65535, when a pod's own is taken.
PORTS = 65536 - 1024
#: From this share of the ports on it is a problem.
NEARLY_ALL = 0.8


@dataclass(slots=True)
class NodeFigures:
    """Of one node. ``heard`` is when all parts had come last (None: never), on the clock of ``take``; the others see
    net.agent_figures. Readers in other threads see whole mappings: they are replaced, not changed.
    """

    heard: float | None = None
    version: str = ""
    connections: Mapping[str, int] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    untold: int = 0
    _next: int = 0
    _connections: dict[str, int] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    def take(self, told: Figures, now: float) -> None:
        """Take in a part; one that does not follow the last waits for the next first one."""
        if told.part == 0:
            self._connections, self._ports = {}, {}
            self.version, self.drops, self.broken = told.version, told.drops, told.broken
            self.untold = told.untold
        elif told.part != self._next:
            return
        self._next = told.part + 1
        self._connections.update(told.connections)
        self._ports.update(told.ports)
        if self._next == told.parts:
            self.connections, self.ports, self.heard = self._connections, self._ports, now
            self._connections, self._ports = {}, {}
