"""Pieces of work at the same time: their lines, their exit codes, their end."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest

from lab.side_by_side import side_by_side


def slowly(first: str, second: str, code: int) -> int:
    """Print a line in two parts."""
    os.write(1, first.encode())
    time.sleep(0.2)
    os.write(2, f"{second}\nend".encode())
    return code


def for_ever() -> int:
    """Say who we are, and stay."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(60)
    return 0


def test_lines_are_whole_and_codes_are_told() -> None:
    lines: list[bytes] = []
    work = {"one": partial(slowly, "a", "b", 0), "two": partial(slowly, "c", "d", 69)}
    assert side_by_side(work, lines.append) == {"one": 0, "two": 69}
    assert [line for line in lines if line.startswith(b"one")] == [b"one | ab\n", b"one | end\n"]
    assert [line for line in lines if line.startswith(b"two")] == [b"two | cd\n", b"two | end\n"]


def test_nobody_stays_behind_when_it_is_interrupted() -> None:
    pids: list[int] = []

    def heard(line: bytes) -> None:
        pids.append(int(line.split()[-1]))
        if len(pids) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side({"one": for_ever, "two": for_ever}, heard)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
