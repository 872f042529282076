"""Tests of one ``xdist_group`` run in one process, with the pytest and the pytest-xdist that are pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

MODULE = """
import os, pytest
pytestmark = [pytest.mark.xdist_group("shared")]

@pytest.mark.parametrize("number", range(8))
def test_where(number):
    print("in", os.environ["PYTEST_XDIST_WORKER"], os.getpid())
    assert False
"""


def test_a_group_stays_together(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    for name in ("first", "second"):
        pytester.makepyfile(**{f"test_{name}": MODULE})
    arguments = ["-p", "tests.support.groups", "-n", "3", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    result = pytester.runpytest_subprocess(*arguments)
    workers = {line for line in result.outlines if line.startswith("in gw")}
    assert len(workers) == 1, workers
    result.assert_outcomes(failed=16)
