"""Agents and controllers of these tests end with their test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def pipes_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent has five of them, which nobody closes here; select(2) takes 1,024 descriptors of a process."""
    made: list[tuple[int, int]] = []
    pipe2 = os.pipe2

    def remembered(flags: int) -> tuple[int, int]:
        ends = pipe2(flags)
        made.extend((end, os.fstat(end).st_ino) for end in ends)
        return ends

    monkeypatch.setattr(os, "pipe2", remembered)
    yield
    for end, inode in made:
        try:
            # Who has closed it may have given the number to somebody else.
            if os.fstat(end).st_ino == inode:
                os.close(end)
        except OSError:
            pass
