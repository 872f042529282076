"""Pure tests: sockets and processes are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guard import GUARD, Guard


@pytest.fixture(autouse=True)
def guard() -> Iterator[Guard]:
    """Refuse sockets and processes during the test."""
    with GUARD.watching() as guard:
        yield guard
