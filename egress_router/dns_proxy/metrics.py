"""The figures of the DNS proxy for Prometheus, and its names for `/status`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from egress_router.config.values import HostName
from egress_router.daemon.engine import Counters
from egress_router.daemon.exposition import Collector, CounterMetricFamily, GaugeMetricFamily, Metric
from egress_router.daemon.metrics import NameFigures, name_figures
from egress_router.daemon.proxy_health import ProxyHealth, by_label, supervised
from egress_router.daemon.sockets import open_by_port
from egress_router.dns_proxy.by_name.config import ByName
from egress_router.dns_proxy.destinations import DnsProxyConfig
from egress_router.dns_proxy.haproxy.engine import HaproxyEngine
from egress_router.dns_proxy.haproxy.log_pipe import Traffic
from egress_router.dns_proxy.names import DnsProxyState

#: Named from the start, so that a rate has a first value.
DECISIONS = ("allow", "deny", "invalid")
ERRORS = ("dns", "connect")


class DnsProxyCollector(Collector):
    """Reads the stats of the access log, the kernel's sockets and the names, and asks HAProxy; while that does not
    answer, its own figures are absent.
    """

    def __init__(self, engine: HaproxyEngine, counters: Counters, health: ProxyHealth) -> None:
        self._engine = engine
        self._counters = counters
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Yield every figure."""
        lost = {"supervisor": self._engine.output.lost if self._engine.output else 0}
        if state := self._engine.state():
            yield from self._ended(state.config)
            if state.config.by_name:
                yield from self._asked(state.config.by_name)
            yield from _open(state.config)
            yield from name_figures((_figures(state, name) for name in state.config.names), time.monotonic())
        try:
            info = self._engine.info()
            limit = int(info["Maxconn"])
            lost["engine"] = int(info["DroppedLogs"])
        except (OSError, ValueError, KeyError):
            pass
        else:
            text = "The most connections that can be open."
            yield GaugeMetricFamily("egress_router_connections_limit", text, limit)
        yield from supervised(self._counters, self._health, lost, mode="dns-proxy")

    def _ended(self, config: DnsProxyConfig) -> Iterator[Metric]:
        counted = self._engine.stats.read()
        found = {item.way: counted.get(item.way, Traffic()) for item in config.destinations}
        prefix, label = "egress_router_destination_", "destination"
        values = {text: traffic.connections for text, traffic in found.items()}
        text = "Connections of a destination line that have ended."
        yield by_label(CounterMetricFamily, f"{prefix}connections", text, label, values)
        values = {text: traffic.bytes for text, traffic in found.items()}
        text = "Bytes of a destination line's ended connections, both ways."
        yield by_label(CounterMetricFamily, f"{prefix}bytes", text, label, values)
        values = {text: traffic.unreached for text, traffic in found.items()}
        text = "Connections of a destination line that no server took: none known, refused, or silent."
        yield by_label(CounterMetricFamily, f"{prefix}unreached", text, label, values)

    def _asked(self, by_name: ByName) -> Iterator[Metric]:
        asked = self._engine.stats.asked()
        text = "Connections (TLS) and requests (HTTP) by name that have ended, by decision; invalid ones had no name."
        decisions = {word: asked.decisions[word] for word in DECISIONS}
        yield by_label(CounterMetricFamily, "egress_router_by_name_requests", text, "decision", decisions)
        text = "Connections and requests by name that were allowed and failed, by what failed."
        errors = {word: asked.errors[word] for word in ERRORS}
        yield by_label(CounterMetricFamily, "egress_router_by_name_errors", text, "reason", errors)
        text = "Connections and requests by name that a line of the policy decided."
        yield by_label(CounterMetricFamily, "egress_router_destination_requests", text, "destination", asked.lines)
        text = "Names that clients asked for and that are remembered."
        yield GaugeMetricFamily("egress_router_by_name_names", text, self._engine.routed().names)
        by_port = open_by_port()
        values = {str(port): by_port[port] for port in by_name.ports}
        text = "Open connections of clients by name, by port."
        yield by_label(GaugeMetricFamily, "egress_router_by_name_open_connections", text, "port", values)


def _open(config: DnsProxyConfig) -> Iterator[Metric]:
    by_port = open_by_port()
    values = {item.way: by_port[item.port] for item in config.destinations}
    text = "Open connections of clients to a destination line."
    yield by_label(GaugeMetricFamily, "egress_router_destination_open_connections", text, "destination", values)


def _figures(state: DnsProxyState, name: HostName) -> NameFigures:
    return NameFigures(str(name), len(state.addresses.get(name, ())), state.answered(name), state.failures(name))


def names_as_json(engine: HaproxyEngine) -> dict[str, Any]:
    """Return the names in force with their addresses and problems as plain values."""
    state = engine.state()
    names = {} if state is None else {str(name): _name(state, name) for name in state.config.names}
    found: dict[str, Any] = {"names": names}
    if state and (by_name := state.config.by_name):
        found["by_name"] = {
            "tls_ports": by_name.tls_ports,
            "http_ports": by_name.http_ports,
            "lines": len(by_name.policy.lines),
            "names": engine.routed().names,
        }
    return found


def _name(state: DnsProxyState, name: HostName) -> dict[str, Any]:
    entry = state.entries.get(name)
    return {
        "addresses": [str(address) for address in state.addresses.get(name, ())],
        "answered_as": entry.candidate if entry else None,
        "problem": state.problem(name),
    }
