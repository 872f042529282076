"""Pure tests: sockets and processes are refused. The option that writes the expected files anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guard import GUARD, Guard


@pytest.fixture(autouse=True)
def guard() -> Iterator[Guard]:
    """Refuse sockets and processes during the test."""
    with GUARD.watching() as guard:
        yield guard


@pytest.fixture
def golden_update(request: pytest.FixtureRequest) -> bool:
    """Whether to write the expected files anew."""
    return bool(request.config.getoption("--golden-update"))
