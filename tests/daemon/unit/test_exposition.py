"""Our text is what prometheus_client writes of the same figures, and reads."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from prometheus_client import core, exposition, parser, registry

from egress_router.daemon import exposition as ours
from egress_router.daemon.exposition import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily, text_of

ODD = 'a "name"\\with\nall of it, {}=é'


class Ours:
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("one", "Whether \\ it\nis.", value=1)
        labelled = CounterMetricFamily("many", "How many.", labels=("zone", "name"))
        labelled.add_metric(("z", ODD), 3)
        labelled.add_metric(("", "b"), 0.25)
        yield labelled
        yield CounterMetricFamily("named_total", "Once.", value=2)
        yield SummaryMetricFamily("spent", "Time.", count_value=4, sum_value=1.5)
        yield GaugeMetricFamily("empty", "Nothing yet.", labels=("x",))
        limits = GaugeMetricFamily("limits", "Odd numbers.", labels=("x",))
        for name, value in (("inf", math.inf), ("minus", -math.inf), ("nan", math.nan), ("small", 1e-9), ("many", 1e5)):
            limits.add_metric((name,), value)
        yield limits


class Theirs:
    def collect(self) -> Iterator[core.Metric]:
        yield core.GaugeMetricFamily("one", "Whether \\ it\nis.", value=1)
        labelled = core.CounterMetricFamily("many", "How many.", labels=("zone", "name"))
        labelled.add_metric(("z", ODD), 3)
        labelled.add_metric(("", "b"), 0.25)
        yield labelled
        yield core.CounterMetricFamily("named_total", "Once.", value=2)
        yield core.SummaryMetricFamily("spent", "Time.", count_value=4, sum_value=1.5)
        yield core.GaugeMetricFamily("empty", "Nothing yet.", labels=("x",))
        limits = core.GaugeMetricFamily("limits", "Odd numbers.", labels=("x",))
        for name, value in (("inf", math.inf), ("minus", -math.inf), ("nan", math.nan), ("small", 1e-9), ("many", 1e5)):
            limits.add_metric((name,), value)
        yield limits


def test_the_text_is_theirs() -> None:
    collectors = registry.CollectorRegistry()
    collectors.register(Theirs())
    assert text_of(Ours()) == exposition.generate_latest(collectors)


@pytest.mark.parametrize("value", [0, 1, 12345678, 1.7e18, 2**63, 1e22, 1 / 3])
def test_numbers_are_read_as_they_are(value: float) -> None:
    class One:
        def collect(self) -> Iterator[Metric]:
            yield GaugeMetricFamily("x", "X.", value=value)

    (family,) = parser.text_string_to_metric_families(text_of(One()).decode())
    assert [sample.value for sample in family.samples] == [float(value)]


def test_as_many_labels_as_names() -> None:
    family = GaugeMetricFamily("x", "X.", labels=("a", "b"))
    family.add_metric(("1",), 1)
    with pytest.raises(ValueError, match="shorter"):
        list(family.lines())


def test_the_content_type() -> None:
    assert ours.CONTENT_TYPE == exposition.CONTENT_TYPE_PLAIN_0_0_4
