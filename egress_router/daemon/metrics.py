"""The page `/metrics`, and metrics of several processes. See https://prometheus.io/docs/practices/naming/"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from egress_router import __version__
from egress_router.daemon.endpoint import Answer, HealthSource
from egress_router.daemon.exposition import (
    CONTENT_TYPE,
    Collector,
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    text_of,
)
from egress_router.records import dataclass


class MetricsPage:
    """The page of ``collector``, which is asked anew each time."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def __call__(self) -> Answer:
        """Return the figures as they are now. Raises EgressRouterError."""
        return 200, CONTENT_TYPE, text_of(self._collector)


def common(source: HealthSource, **runs: str) -> Iterator[Metric]:
    """Yield what every process shows: whether it is ready, and what ``runs``, as labels of its build information."""
    ready = not [*source.heartbeats.stuck(), *source.reasons(time.monotonic())]
    yield GaugeMetricFamily("egress_router_ready", "Whether /readyz says so.", value=int(ready))
    build = GaugeMetricFamily(
        "egress_router_build_info", "Constant 1; the labels say what runs.", labels=("version", *runs)
    )
    build.add_metric((__version__, *runs.values()), 1)
    yield build


def reloads(ok: int, failed: int, *, in_force: bool) -> Iterator[Metric]:
    """Yield the figures of a configuration that can change: reloads so far, and whether the last one was accepted."""
    counts = CounterMetricFamily("egress_router_reloads", "Reloads, by what became of them.", labels=("result",))
    counts.add_metric(("ok",), ok)
    counts.add_metric(("failed",), failed)
    yield counts
    yield GaugeMetricFamily(
        "egress_router_last_reload_successful",
        "Whether the destinations in force are those of the file.",
        value=int(in_force),
    )


_LABEL = ("name",)


@dataclass(frozen=True, slots=True)
class NameFigures:
    """One name: how many addresses serve, when the last good answer came (time.monotonic(), None: never), and how many
    look-ups brought none.
    """

    name: str
    addresses: int
    answered: float | None
    failures: int


def name_figures(names: Iterable[NameFigures], now: float) -> Iterator[Metric]:
    """Yield the figures of ``names``; ``now`` is time.monotonic()."""
    addresses = GaugeMetricFamily("egress_router_name_addresses", "Addresses in use for a name.", labels=_LABEL)
    age = GaugeMetricFamily(
        "egress_router_name_answer_age_seconds", "Seconds since the last good answer.", labels=_LABEL
    )
    failures = CounterMetricFamily("egress_router_name_failures", "Look-ups that brought no answer.", labels=_LABEL)
    for item in names:
        label = (item.name,)
        addresses.add_metric(label, item.addresses)
        failures.add_metric(label, item.failures)
        if item.answered is not None:
            age.add_metric(label, now - item.answered)
    yield from (addresses, age, failures)
