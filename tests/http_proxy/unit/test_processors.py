"""How many processors a container may use, from files as its control group has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from egress_router.http_proxy.squid.workers import processors

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, HERE),
        ({"cpu.max": "max 100000\n"}, HERE),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100001 100000\n"}, min(2, HERE)),
        ({"cpu.max": "6400000 100000\n"}, min(64, HERE)),
        ({"cpu.max": "unreadable\n"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_processors(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert processors(tmp_path) == expected
