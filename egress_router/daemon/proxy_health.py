"""Health and metrics that both proxies have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from egress_router.daemon.engine import Counters
from egress_router.daemon.exposition import CounterMetricFamily, GaugeMetricFamily, Metric
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.metrics import common, reloads
from egress_router.daemon.supervisor import Supervisor

#: Seconds that an answer of the engine serves: many may ask, and each question is work for the proxy.
FRESH = 1.0


class ProxyHealth:
    """The health source of the endpoint.

    ``probe`` asks the engine and returns why it does not accept connections now, a sentence each; it may take seconds.
    """

    def __init__(self, supervisor: Supervisor[Any], probe: Callable[[], Sequence[str]]) -> None:
        self._supervisor = supervisor
        self._probe = probe
        self._lock = threading.Lock()
        self._asked = 0.0
        self._answer: list[str] = []

    @property
    def heartbeats(self) -> Heartbeats:
        """Those of the supervisor's loop and of its threads."""
        return self._supervisor.heartbeats

    def reasons(self, now: float) -> list[str]:
        """Return why no connections should be sent here, a sentence each; nothing when all is well."""
        if self._supervisor.leaving:
            return ["leaving"]
        if not self._supervisor.counters.ready:
            error = self._supervisor.counters.last_error.partition("\n")[0]
            return [f"{self._supervisor.engine.name} is not in force{': ' if error else ' yet'}{error}"]
        with self._lock:
            if now - self._asked > FRESH:
                self._answer = list(self._probe())
                self._asked = time.monotonic()
            return list(self._answer)

    def as_json(self) -> dict[str, Any]:
        """Return the state as plain values."""
        reasons = self.reasons(time.monotonic())
        return {**asdict(self._supervisor.counters), "ready": not reasons, "reasons": reasons}


def by_label(family: type[Metric], name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a family of figures with one label."""
    metric = family(name, text, labels=(label,))  # both families take labels
    for key, value in values.items():
        metric.add_metric((key,), value)
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
