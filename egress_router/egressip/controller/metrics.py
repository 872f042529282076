"""The figures of the controller for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from egress_router.daemon.exposition import Collector, CounterMetricFamily, Metric
from egress_router.daemon.metrics import common
from egress_router.egressip.controller.controller import Controller
from egress_router.egressip.node.metrics import counter, gauge, labelled

_PREFIX = "egress_router_controller_"


class ControllerCollector(Collector):
    """Reads what the controller has noted."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterator[Metric]:
        """Yield every figure."""
        known = self._controller.known
        yield gauge("leads", "Whether this is the controller that assigns.", known.leads, _PREFIX)
        states = Counter(node.health.state.value for node in list(self._controller.watched.nodes.values()))
        yield labelled("nodes", "Nodes by their health.", "health", states, _PREFIX)
        assigned = sum(len(ips) for ips in list(known.decision.assignment.values()))
        yield gauge("egress_ips_assigned", "Egress IPs that are assigned to a node.", assigned, _PREFIX)
        alone = assigned - len(known.decision.standbys) if self._controller.keeps_connections else 0
        help_text = "Egress IPs that are to have a standby and have none."
        yield gauge("egress_ips_without_standby", help_text, alone, _PREFIX)
        if pools := dict(known.pools):
            sizes = {name: float(total) for name, (total, _) in pools.items()}
            yield labelled("pool_addresses", "Addresses of a pool.", "pool", sizes, _PREFIX)
            used = {name: float(count) for name, (_, count) in pools.items()}
            yield labelled("pool_addresses_used", "Addresses of a pool that are taken.", "pool", used, _PREFIX)
        yield CounterMetricFamily(f"{_PREFIX}moves", "Egress IPs taken from a node.", value=known.moves)
        writes = {"ok": float(known.writes), "failed": float(known.failed_writes)}
        yield counter("writes", "Assignments written down, by what became of them.", writes, "result", _PREFIX)
        yield from common(self._controller, mode="controller")
