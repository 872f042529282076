"""A fresh lab for each test, in both CNI shapes; a test that fails shows the state of its pods."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from egress_router.lab import SHAPES, Lab


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    """How pods are connected to their node."""
    return str(request.param)


@pytest.fixture
def lab(shape: str) -> Iterator[Lab]:
    """A lab with one node."""
    with Lab(nodes=1, shape=shape) as lab:
        yield lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach addresses, rules, routes, translations and connections of the pods to a failure."""
    report = yield
    if report.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Lab) and value.pods:
                report.sections.append(("lab", value.dump(*value.pods)))
    return report
