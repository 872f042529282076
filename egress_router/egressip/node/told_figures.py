"""The figures of this node that controllers are told when they ask: see net.agent_figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from egress_router import __version__
from egress_router.egressip.node.drain import Job
from egress_router.egressip.node.legs import GatewayLegs
from egress_router.egressip.node.source_ports import SourcePorts
from egress_router.errors import EgressRouterError
from egress_router.net.agent_figures import Figures, as_message, parts_of

#: Seconds between two readings of what was dropped.
DROPS_EVERY = 30.0


@dataclass(slots=True)
class ToldFigures:
    """Gathered in the agent's loop, told from the prober's thread. ``dropped`` asks the kernel, in a thread of its own.
    Times are those of ``now``.
    """

    job: Job
    dropped: Callable[[], Mapping[str, int]]
    now: Callable[[], float] = time.monotonic
    due: float = 0.0
    _drops: Mapping[str, int] = field(default_factory=dict)
    _reading: bool = False
    _parts: list[Figures] = field(default_factory=lambda: parts_of(__version__, {}, {}, {}, {}))

    def gather(self, held: Collection[str], ports: SourcePorts, legs: Mapping[str, GatewayLegs]) -> None:
        """Take in what is known now; read the drops anew if it is time to."""
        if not self._reading and self.now() >= self.due:
            self._reading, self.due = True, self.now() + DROPS_EVERY
            self.job("reading the drops", self._ask, self._read, failed=self._failed)
        connections = {ip: ports.connections.get(ip, 0) for ip in held}
        broken = {name: leg for name, of_gateway in legs.items() if (leg := of_gateway.broken())}
        self._parts = parts_of(__version__, connections, ports.most, self._drops, broken)

    def _ask(self) -> Mapping[str, int]:
        try:
            return self.dropped()
        except EgressRouterError:
            # Whoever puts the tables in place says what is wrong with them.
            return self._drops

    def _read(self, drops: Mapping[str, int]) -> None:
        self._reading, self._drops = False, drops

    def _failed(self) -> None:
        self._reading = False

    def part(self, number: int) -> dict[str, object]:
        """Return a part as a message has it, of a number that there is not the first one."""
        parts = self._parts
        return as_message(parts[number if number < len(parts) else 0])
