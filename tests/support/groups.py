"""Tests that share something expensive run in one process: the group that a module's ``xdist_group`` mark names.

pytest-xdist 3.8 appends the group to the test's node ID, and pytest 9.2 takes no notice of that (the ID is computed):
tests of a group are spread over all processes. Here the controller reads the group from the module's text.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_GROUP = re.compile(r"""mark\.xdist_group\(["'](\w+)["']\)""")


@cache
def group_of(module: Path) -> str | None:
    """Return the group that a module of tests, is in; None for none."""
    try:
        found = _GROUP.search(module.read_text())
    except OSError:
        return None
    return found[1] if found else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Return a scheduler that keeps groups together, where one was asked for by ``--dist loadgroup``."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class Groups(LoadGroupScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / nodeid.partition("::")[0]) or nodeid

    return Groups(config, log)
