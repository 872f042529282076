"""The figures of names that are looked up, for every process that does so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from egress_router.model.addresses import Address
from egress_router.model.names import HostName
from egress_router.plan.name_answers import Belief


def name_figures(
    names: Iterable[HostName],
    beliefs: Mapping[HostName, Belief],
    addresses: Mapping[HostName, Sequence[Address]],
    now: float,
) -> Iterator[Metric]:
    """Yield what is known of ``names``; ``now`` is time.monotonic()."""
    found = GaugeMetricFamily("egress_router_name_addresses", "Addresses of a name that serve now.", labels=("name",))
    failures = GaugeMetricFamily(
        "egress_router_name_failures", "Look-ups of a name in a row without an answer that counts.", labels=("name",)
    )
    ages = GaugeMetricFamily(
        "egress_router_name_answer_age_seconds", "Age of the answer that serves.", labels=("name",)
    )
    for name in names:
        label = (str(name),)
        found.add_metric(label, len(addresses.get(name, ())))
        belief = beliefs.get(name)
        if belief is None:
            continue
        failures.add_metric(label, belief.failures)
        if belief.serving:
            ages.add_metric(label, now - max(item.confirmed for item in belief.serving.values()))
    yield from (found, failures, ages)
