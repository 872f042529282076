"""The figures that both proxies have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from egress_router.endpoint.metrics import common, reloads
from egress_router.proxy.engine import Counters
from egress_router.proxy.health import ProxyHealth


def by_label(family: type[Metric], name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a family of figures with one label."""
    metric = family(name, text, labels=(label,))  # type: ignore[call-arg]  # both families take labels
    for key, value in values.items():
        metric.add_metric((key,), value)  # type: ignore[attr-defined]
    return metric


def supervised(
    counters: Counters, health: ProxyHealth, lines_lost: Mapping[str, float], **runs: str
) -> Iterator[Metric]:
    """Yield what the supervisor knows: ``lines_lost`` by who dropped them, ``runs`` as labels of the build
    information.
    """
    yield from reloads(counters.reloads, counters.reload_failures, in_force=not counters.refused)
    yield CounterMetricFamily(
        "egress_router_engine_restarts", "Times that the proxy process died and was started again.", counters.restarts
    )
    yield GaugeMetricFamily(
        "egress_router_engines_draining",
        "Proxy processes of former configurations that wait for their last connection to end.",
        counters.draining,
    )
    text = "Lines of the access log that were dropped: by us as nobody read them, or by the engine as we were too slow."
    yield by_label(CounterMetricFamily, "egress_router_log_lines_lost", text, "by", lines_lost)
    yield from common(health, **runs)
