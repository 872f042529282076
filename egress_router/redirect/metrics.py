"""The figures of the long-lived router for Prometheus. See https://prometheus.io/docs/practices/naming/"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from egress_router.daemon.exposition import Collector, CounterMetricFamily, GaugeMetricFamily, Metric
from egress_router.daemon.metrics import NameFigures, common, name_figures, reloads
from egress_router.net.conntrack import fill
from egress_router.redirect.daemon import Reconciler
from egress_router.redirect.pair.state import PairState
from egress_router.redirect.pair.values import Role
from egress_router.redirect.state import State


class RouterCollector(Collector):
    """Reads the kernel when it is asked; nothing is counted twice."""

    def __init__(self, live: Reconciler) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Yield every figure. Raises EgressRouterError."""
        yield from self._traffic()
        yield from self._tracked()
        yield GaugeMetricFamily(
            "egress_router_flow_offload",
            "Whether established connections go around the rules, by a flow table; then packets and bytes of "
            "destination lines are without theirs.",
            value=int(not self._live.why_no_offload()),
        )
        state = self._live.state
        yield from _own(state)
        yield from _pair(state.pair)
        yield from reloads(state.reloads, state.reload_failures, in_force=not state.reload_error)
        mode = self._live.config.mode
        yield from common(state, mode="redirect" if mode.redirects else f"{mode}-pair", backend=self._live.backend.name)

    def _traffic(self) -> Iterator[Metric]:
        label = ("destination",)
        prefix = "egress_router_destination_"
        packets = CounterMetricFamily(f"{prefix}packets", "Packets of a destination line, both ways.", labels=label)
        size = CounterMetricFamily(f"{prefix}bytes", "Bytes of a destination line, both ways.", labels=label)
        connections = CounterMetricFamily(
            f"{prefix}connections", "Connections that a destination line has redirected.", labels=label
        )
        for text, counters in self._live.counters().items():
            packets.add_metric((text,), counters.packets)
            size.add_metric((text,), counters.bytes)
            connections.add_metric((text,), counters.connections)
        yield from (packets, size, connections)

    def _tracked(self) -> Iterator[Metric]:
        entries, limit = fill()
        yield GaugeMetricFamily("egress_router_conntrack_entries", "Connections that the pod tracks.", value=entries)
        yield GaugeMetricFamily("egress_router_conntrack_entries_limit", "The most it can track.", value=limit)
        ports = GaugeMetricFamily(
            "egress_router_source_ports_used",
            "Ports of EGRESS_SOURCE in use towards one remote address and port; about 64000 can be.",
            labels=("protocol", "remote", "port"),
        )
        connections = self._live.connections()
        yield GaugeMetricFamily(
            "egress_router_offloaded_connections",
            "Connections that a flow table takes around the rules now.",
            value=sum(item.offloaded for item in connections),
        )
        used = Counter((str(item.protocol), str(item.reply_address), str(item.reply_port)) for item in connections)
        for labels, count in used.items():
            ports.add_metric(labels, count)
        yield ports


def _own(state: State) -> Iterable[Metric]:
    yield CounterMetricFamily(
        "egress_router_repairs", "Times that something was missing and was put back.", value=state.repairs
    )
    yield CounterMetricFamily(
        "egress_router_address_conflicts", "Claims of EGRESS_SOURCE by another machine.", value=state.conflicts_seen
    )
    gateways = GaugeMetricFamily("egress_router_gateway_up", "Whether a gateway answers.", labels=("gateway",))
    for address, gateway in list(state.gateways.items()):
        gateways.add_metric((str(address),), 1 if gateway.up else 0)
    yield gateways
    yield from _names(state)
    checks = GaugeMetricFamily("egress_router_check_up", "Whether an EGRESS_CHECK accepts connections.", labels=("to",))
    for check, reached in list(state.checks.items()):
        checks.add_metric((str(check),), 1 if reached.up else 0)
    yield checks
    yield GaugeMetricFamily(
        "egress_router_link_up", "Whether the egress interface has a carrier.", value=int(state.carrier)
    )


def _pair(pair: PairState | None) -> Iterable[Metric]:
    """Yield what a router of a pair says; names without figures for one that is alone."""
    role = GaugeMetricFamily("egress_router_pair_role", "1 for the role of a router of a pair.", labels=("role",))
    changes = CounterMetricFamily("egress_router_pair_changes", "Changes of the role.", labels=())
    since = GaugeMetricFamily("egress_router_pair_last_change_timestamp_seconds", "When the role changed.", labels=())
    both = CounterMetricFamily(
        "egress_router_pair_both_active_adverts", "Adverts of another active router, heard by an active one.", labels=()
    )
    splits = CounterMetricFamily(
        "egress_router_pair_splits",
        "Times that another router had the address in the egress network and was not heard in the cluster's.",
        labels=(),
    )
    standbys = GaugeMetricFamily(
        "egress_router_pair_standbys", "Routers of the pair that answer and wait for the address.", labels=()
    )
    differing = GaugeMetricFamily(
        "egress_router_pair_peers_differing", "Routers of the pair with other destinations or settings.", labels=()
    )
    if pair is not None and pair.config.peers:
        standbys.add_metric((), pair.standbys)
        differing.add_metric((), pair.differing)
    if pair is not None:
        for item in Role:
            role.add_metric((str(item),), int(item is pair.role))
        changes.add_metric((), pair.changes)
        since.add_metric((), pair.since)
        both.add_metric((), pair.both_active)
        splits.add_metric((), pair.splits)
    yield from (role, changes, since, both, splits, standbys, differing)


def _names(state: State) -> Iterable[Metric]:
    names = (
        NameFigures(str(name), len(item.addresses), item.answered, item.failures)
        for name, item in list(state.names.items())
    )
    return name_figures(names, time.monotonic())
