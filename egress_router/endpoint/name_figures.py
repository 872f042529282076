"""The figures of names that are looked up, for every process that does so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

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
