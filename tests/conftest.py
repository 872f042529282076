"""Tests that need root are left out without it, loudly; in CI that is an error."""

from __future__ import annotations

import os

import pytest

LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked ``root`` when we are not."""
    if os.geteuid() == 0:
        return
    needy = [item for item in items if item.get_closest_marker("root")]
    if not needy:
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(f"{len(needy)} tests need root, and CI=true lets nothing be left out")
    config.stash[LEFT_OUT] = len(needy)
    config.hook.pytest_deselected(items=needy)
    items[:] = [item for item in items if item not in needy]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{count} tests that send real packets were LEFT OUT: they need root (run as root, or with sudo)",
            yellow=True,
        )
