"""Without root, tests with real packets are left out loudly; with CI=true that is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = """
import pytest
def test_pure(): pass
@pytest.mark.root
def test_packets(): pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest((Path(__file__).parents[2] / "conftest.py").read_text().replace("pytest_plugins", "_unused"))
    pytester.makeini("[pytest]\nmarkers = root: needs root")
    pytester.makepyfile(TESTS)
    return pytester


def test_as_root_all_run(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    project.runpytest_inprocess().assert_outcomes(passed=2)


def test_as_somebody_the_rest_runs_and_a_line_says_so(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["1 test that sends real packets was LEFT OUT*root*"])


def test_ci_lets_nothing_be_left_out(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*1 test needs root, and CI=true lets nothing be left out*"])
