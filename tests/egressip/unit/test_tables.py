"""What an earlier agent has left in the kernel, where nft(8) does not say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from egress_router.egressip.node import tables
from egress_router.errors import ToolFailed, ToolHangs

READERS: list[Callable[[], object]] = [
    tables.assigned_before,
    tables.used_before,
    tables.alive_before,
    tables.marks_before,
]
ABSENT = "Error: No such file or directory\nlist map inet egress_ip path4\n"


@pytest.mark.parametrize("read", READERS)
def test_what_is_not_there_is_nothing(read: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*command: object) -> str:
        raise ToolFailed(["nft"], "exit status 1", ABSENT)

    monkeypatch.setattr(tables, "run_tool", fail)
    assert read() in (frozenset(), (0, {}))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "error",
    [
        ToolHangs(["nft"], "no end after 20 s", ""),
        ToolFailed(["nft"], "exit status 1", "Error: Operation not permitted"),
    ],
    ids=["hangs", "fails"],
)
def test_what_cannot_be_read_is_not_nothing(
    read: Callable[[], object], error: ToolFailed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that took it for nothing would give up the addresses of the one before it."""

    def fail(*command: object) -> str:
        raise error

    monkeypatch.setattr(tables, "run_tool", fail)
    with pytest.raises(type(error)):
        read()
