"""Tests that need root are left out without it, loudly; in CI that is an error."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.golden import update
from tests.support.guard import GUARD, Guard

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

if "TEST_KERNEL" not in os.environ:
    # Importing Hypothesis is half of what pytest does at its start, and no test on a distribution's kernel uses it.
    from tests.support.examples import load_profile

    load_profile()

pytest_plugins = [
    "pytester",
    "tests.support.groups",
    "tests.support.kernel",
    "tests.support.kernels",
    "tests.support.kubernetes",
]

LEFT_OUT, WAITING = pytest.StashKey[int](), pytest.StashKey[int]()


def on_demand(item: pytest.Item) -> bool:
    """Tell whether a test runs only when it is asked for."""
    return item.get_closest_marker("on_demand") is not None


@pytest.fixture(autouse=True)
def guard(request: pytest.FixtureRequest) -> Iterator[Guard | None]:
    """Refuse sockets and processes during each test in a folder ``unit`` or ``golden``: they are pure."""
    if {"unit", "golden"}.isdisjoint(request.path.parts[-3:-1]):
        yield None
        return
    with GUARD.watching() as guard:
        yield guard


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one switch that writes expected files."""
    parser.addoption("--golden-update", action="store_true", help="write expected files anew")
    parser.addoption("--on-demand", action="store_true", help="run what is marked on_demand, too")


def pytest_configure(config: pytest.Config) -> None:
    """Pass the option on."""
    if config.getoption("--golden-update"):
        update()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked ``on_demand`` unless it is asked for, and what is marked ``root`` when we are not."""
    if not config.getoption("--on-demand") and (waiting := [item for item in items if on_demand(item)]):
        config.stash[WAITING] = len(waiting)
        config.hook.pytest_deselected(items=waiting)
        items[:] = [item for item in items if not on_demand(item)]
    if os.geteuid() == 0:
        return
    needy = [item for item in items if item.get_closest_marker("root")]
    if not needy:
        return
    if os.environ.get("CI") == "true":
        what = "1 test needs" if len(needy) == 1 else f"{len(needy)} tests need"
        raise pytest.UsageError(f"{what} root, and CI=true lets nothing be left out")
    config.stash[LEFT_OUT] = len(needy)
    config.hook.pytest_deselected(items=needy)
    items[:] = [item for item in items if item not in needy]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out."""
    if waiting := config.stash.get(WAITING, 0):
        terminalreporter.write_line(
            f"{waiting} tests LEFT OUT that run on demand: scripts/test cluster, scripts/test attack --all", yellow=True
        )
    if count := config.stash.get(LEFT_OUT, 0):
        what = "1 test that sends real packets was" if count == 1 else f"{count} tests that send real packets were"
        terminalreporter.write_line(f"{what} LEFT OUT: root is needed (run as root, or with sudo)", yellow=True)


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """What a command sets up in this process writes to a standard error that is gone when the test is over."""
    logger = logging.getLogger("egress_router")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate, logger.level = before


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """What starts browsers. There may be one in a process, and while it is there no other loop of asyncio."""
    # Imported for those tests alone.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium, for all tests of a module."""
    from tests.support.browser import CHROMIUM, OPTIONS

    started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=OPTIONS)
    yield started
    started.close()
