"""The figures of a node's agent for Prometheus. See https://prometheus.io/docs/practices/naming/"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from egress_router.daemon.metrics import common
from egress_router.daemon.reachability import Health
from egress_router.egressip.node.agent import Agent
from egress_router.egressip.node.state import NodeState
from egress_router.egressip.node.tables import dropped_packets

_PREFIX = "egress_router_node_"


class NodeCollector(Collector):
    """Reads what the agent has noted; the packet counters come from the kernel."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Yield every figure. Raises EgressRouterError."""
        agent = self._agent
        view, holders, applied = agent.view, agent.holders, agent.kernel.applied or NodeState()
        mine = view.decision.nodes.get(agent.settings.node)
        yield gauge("egress_ips_claimed", "Egress IPs that this node shall hold.", len(mine.claims) if mine else 0)
        yield gauge("egress_ips_held", "Egress IPs on its interface.", len(agent.holdings.held))
        yield gauge("egress_ips_lacking", "Egress IPs that their holders do not have.", len(agent.lacking()))
        yield labelled(
            "holder_up",
            "Whether a node that pods here leave through answers and takes new connections.",
            "node",
            {name: float(health.state is Health.UP) for name, health in list(holders.health.items())},
        )
        spaces = Counter(verdict.disposition.value for verdict in list(view.decision.namespaces.values()))
        yield labelled("namespaces", "Namespaces by what happens to their traffic.", "disposition", spaces)
        ways = Counter("through" if way.startswith("to_") else way for way in list(applied.ways.values()))
        yield labelled("pods", "Addresses of this node's pods by the way they leave.", "way", ways)
        yield counter(
            "dropped_packets", "Packets dropped or refused, by reason; DROPS in the documentation.", dropped_packets()
        )
        yield counter("probe_losses", "Probes of a holder that it did not answer.", dict(holders.losses), "node")
        yield CounterMetricFamily(f"{_PREFIX}failovers", "Holders in use that went down.", value=holders.failovers)
        yield CounterMetricFamily(
            f"{_PREFIX}cut_connections", "Connections deleted so that clients reconnect.", value=agent.kernel.cut
        )
        yield CounterMetricFamily(f"{_PREFIX}repairs", "Times that something was put back.", value=view.repairs)
        yield CounterMetricFamily(f"{_PREFIX}failed_applies", "Changes that failed.", value=view.failed_applies)
        yield SummaryMetricFamily(
            f"{_PREFIX}apply_seconds",
            "Deciding on a change and putting it in place.",
            count_value=view.applies + view.failed_applies,
            sum_value=view.apply_seconds,
        )
        yield gauge("draining", "Whether this node hands its egress IPs over.", agent.hand_over.draining)
        left = agent.hand_over.left
        yield gauge(
            "drain_connections",
            "Connections that leave with its egress IPs, while it hands over.",
            left.total() if left else 0,
        )
        yield from common(agent, mode="node")


def gauge(name: str, text: str, value: float, prefix: str = _PREFIX) -> Metric:
    """Return one number."""
    return GaugeMetricFamily(prefix + name, text, value=value)


def labelled(name: str, text: str, label: str, values: Mapping[str, float], prefix: str = _PREFIX) -> Metric:
    """Return a number per value of a label."""
    return _filled(GaugeMetricFamily(prefix + name, text, labels=(label,)), values.items())


def counter(name: str, text: str, values: Mapping[str, float], label: str = "reason", prefix: str = _PREFIX) -> Metric:
    """Return a count per value of a label."""
    return _filled(CounterMetricFamily(prefix + name, text, labels=(label,)), values.items())


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Iterable[tuple[str, float]]
) -> GaugeMetricFamily | CounterMetricFamily:
    for value, number in sorted(values):
        family.add_metric((value,), number)
    return family
