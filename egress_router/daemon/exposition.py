"""Figures in Prometheus' text format, version 0.0.4. See https://prometheus.io/docs/instrumenting/exposition_formats/

prometheus_client loads a web server, TLS and an HTTP client to write it: a quarter of the memory of a router. Its
classes have the same names and make the same figures; tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Metric:
    """A family of figures: what they are called, what they mean, and one for each combination of labels."""

    kind = "untyped"

    def __init__(
        self, name: str, documentation: str, value: float | None = None, *, labels: Sequence[str] = ()
    ) -> None:
        """``value`` is the only figure of a family without labels."""
        self.name = name
        self.documentation = documentation
        self._labels = tuple(labels)
        self._samples: list[tuple[str, tuple[str, ...], float]] = []
        if value is not None:
            self.add_metric((), value)

    def add_metric(self, labels: Sequence[str], value: float) -> None:
        """Add the figure of a combination of labels, given in their order."""
        self._add("", labels, value)

    def lines(self) -> Iterator[str]:
        """Yield the family in the text format."""
        yield f"# HELP {self.name} {self.documentation.translate(_ESCAPES)}\n"
        yield f"# TYPE {self.name} {self.kind}\n"
        for suffix, values, value in self._samples:
            pairs = zip(self._labels, values, strict=True)
            labels = ",".join(f'{name}="{text.translate(_LABEL_ESCAPES)}"' for name, text in sorted(pairs))
            yield f"{self.name}{suffix}{f'{{{labels}}}' if labels else ''} {_number(value)}\n"

    def _add(self, suffix: str, labels: Sequence[str], value: float) -> None:
        self._samples.append((suffix, tuple(map(str, labels)), value))


class GaugeMetricFamily(Metric):
    """Figures that go up and down."""

    kind = "gauge"


class CounterMetricFamily(Metric):
    """Figures that only go up, until the process ends. Their names end in ``_total``, which is added."""

    kind = "counter"

    def __init__(
        self, name: str, documentation: str, value: float | None = None, *, labels: Sequence[str] = ()
    ) -> None:
        super().__init__(f"{name.removesuffix('_total')}_total", documentation, value=value, labels=labels)


class SummaryMetricFamily(Metric):
    """How many there were, and their sum."""

    kind = "summary"

    def __init__(self, name: str, documentation: str, *, count_value: float, sum_value: float) -> None:
        super().__init__(name, documentation)
        self._add("_count", (), count_value)
        self._add("_sum", (), sum_value)


class Collector(Protocol):
    """What can tell figures."""

    def collect(self) -> Iterable[Metric]:
        """Return the figures as they are now. Raises EgressRouterError."""
        ...


def text_of(collector: Collector) -> bytes:
    """Return the figures of ``collector``, as they are now, in the text format."""
    return "".join([line for metric in collector.collect() for line in metric.lines()]).encode()


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
