"""The figures of a node's agent for Prometheus. See https://prometheus.io/docs/practices/naming/"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from egress_router.daemon.exposition import (
    Collector,
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from egress_router.daemon.metrics import common
from egress_router.egressip.health import Health
from egress_router.egressip.node.agent import Agent
from egress_router.egressip.node.source_ports import MOST_REMOTES
from egress_router.egressip.node.state import NodeState
from egress_router.egressip.node_figures import PORTS
from egress_router.kubernetes.nri import Plugin
from egress_router.net.conntrack import insert_failures

_PREFIX = "egress_router_node_"


class NodeCollector(Collector):
    """Reads what the agent has noted; the packet counters come from the kernel."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Yield every figure. Raises EgressRouterError."""
        agent = self._agent
        known, gateways, applied = agent.known, agent.gateways, agent.dataplane.applied or NodeState()
        mine = known.decision.nodes.get(agent.settings.node)
        yield gauge("egress_ips_claimed", "Egress IPs that this node shall hold.", len(mine.claims) if mine else 0)
        yield gauge("egress_ips_held", "Egress IPs on its interface.", len(agent.local.assigned))
        yield gauge("egress_ips_lacking", "Egress IPs that their holders do not have.", len(agent.pending()))
        yield labelled(
            "holder_up",
            "Whether a node that pods here leave through answers and takes new connections.",
            "node",
            {name: float(health.state is Health.UP) for name, health in list(gateways.health.items())},
        )
        legs = GaugeMetricFamily(
            f"{_PREFIX}holder_leg_up",
            "Whether a leg of the way to a holder and back works: pings, the tunnel, its agent's word.",
            labels=("node", "leg"),
        )
        for name, of_holder in sorted(gateways.legs.items()):
            for leg, works in of_holder.up().items():
                legs.add_metric((name, leg), float(works))
        yield legs
        spaces = Counter(verdict.disposition.value for verdict in list(known.decision.namespaces.values()))
        yield labelled("namespaces", "Namespaces by what happens to their traffic.", "disposition", spaces)
        ways = Counter(map(applied.way, list(applied.paths)))
        yield labelled("pods", "Addresses of this node's pods by the way they leave.", "way", ways)
        yield counter(
            "dropped_packets",
            "Packets dropped or refused, by reason; DROPS in the documentation.",
            agent.dataplane.dropped_packets(),
        )
        yield counter("probe_losses", "Probes of a holder that it did not answer.", dict(gateways.losses), "node")
        yield CounterMetricFamily(f"{_PREFIX}failovers", "Gateways in use that went down.", value=gateways.failovers)
        yield CounterMetricFamily(
            f"{_PREFIX}cut_connections", "Connections deleted so that clients reconnect.", value=agent.dataplane.cut
        )
        yield CounterMetricFamily(f"{_PREFIX}repairs", "Times that something was put back.", value=known.repairs)
        yield CounterMetricFamily(f"{_PREFIX}failed_applies", "Changes that failed.", value=known.failed_applies)
        yield SummaryMetricFamily(
            f"{_PREFIX}apply_seconds",
            "Deciding on a change and putting it in place.",
            count_value=known.applies + known.failed_applies,
            sum_value=known.apply_seconds,
        )
        yield from runtime_metrics(agent.plugin)
        yield gauge("draining", "Whether this node hands its egress IPs over.", agent.node_drain.draining)
        left = agent.node_drain.left
        yield gauge(
            "drain_connections",
            "Connections that leave with its egress IPs, while it hands over.",
            left.total() if left else 0,
        )
        ports = GaugeMetricFamily(
            f"{_PREFIX}source_ports_used",
            f"Source ports of an egress IP in use towards one remote, of {PORTS}; the {MOST_REMOTES} highest.",
            labels=("ip", "protocol", "remote", "port"),
        )
        for use, count in list(agent.source_ports.used.items()):
            ports.add_metric((str(use.source), str(use.protocol), str(use.remote), str(use.port)), count)
        yield ports
        yield CounterMetricFamily(
            f"{_PREFIX}conntrack_insert_failures",
            "Packets dropped because their connection clashed with another, as when no source port is left.",
            value=insert_failures(),
        )
        yield CounterMetricFamily(
            f"{_PREFIX}refused_messages",
            "Messages on the agents' port that were not believed: not signed with a key of ours, or not new.",
            value=agent.signatures.refused if agent.signatures else 0,
        )
        yield from self._standby()
        yield from common(agent, mode="node")

    def _standby(self) -> Iterator[Metric]:
        agent = self._agent
        figures = agent.standby_figures
        yield labelled(
            "standby_connections",
            "Connections kept for others' addresses, and those of its own that standbys have.",
            "kind",
            {"kept": figures.kept, "told": figures.told},
        )
        yield labelled(
            "standby_connected",
            "Whether a standby of addresses here is told of connections.",
            "standby",
            {peer: float(connected) for peer, connected in dict(figures.connected).items()},
        )
        yield labelled(
            "standby_lag_seconds",
            "For how long the oldest change has not been acknowledged by a standby.",
            "standby",
            dict(figures.lag),
        )
        for name, text, value in (
            ("standby_changes", "Connections that began or ended and that standbys are told of.", figures.changes),
            ("standby_sent_bytes", "Bytes sent to standbys.", figures.sent_bytes),
            ("standby_streams_again", "Streams to standbys that broke, and began again.", figures.again),
            ("standby_refused", "Messages and machines that were not believed by this standby.", figures.refused),
            ("taken_over_connections", "Connections that went on here after their holder had gone.", agent.taken_over),
            ("led_connections", "Connections of pods here that went on by another node.", agent.led_elsewhere),
        ):
            yield CounterMetricFamily(f"{_PREFIX}{name}", text, value=value)


def runtime_metrics(plugin: Plugin | None) -> Iterator[Metric]:
    """Yield the figures of what the container runtime has told; zeros where nobody listens to it."""
    yield gauge("runtime_connected", "Whether the container runtime tells of pods.", plugin.connected if plugin else 0)
    calls = dict(plugin.calls) if plugin else {}
    yield counter("runtime_calls", "Calls of the container runtime, by what they told.", calls, "event")
    yield CounterMetricFamily(
        f"{_PREFIX}runtime_failures",
        "Calls of the container runtime that were not understood.",
        value=plugin.failures if plugin else 0,
    )
    yield CounterMetricFamily(
        f"{_PREFIX}runtime_late_pods",
        "Pods that started before their rules were in place.",
        value=plugin.late if plugin else 0,
    )
    yield SummaryMetricFamily(
        f"{_PREFIX}runtime_call_seconds",
        "Answering calls of the container runtime: what it waits for us.",
        count_value=plugin.answers if plugin else 0,
        sum_value=plugin.seconds if plugin else 0.0,
    )


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
