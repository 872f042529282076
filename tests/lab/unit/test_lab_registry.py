"""Which labs ``down`` removes: never one in use, unless it is told to."""

from __future__ import annotations

import pytest

from lab.registry import Standing, to_remove

USED = Standing("erl-used", ("erl-used-lan",), owner=77)
LEFT = Standing("erl-left", ("erl-left-lan",), owner=None)


@pytest.mark.parametrize(
    ("names", "everything", "expected"),
    [
        ((), False, [LEFT]),
        ((), True, [USED, LEFT]),
        (("erl-used",), False, [USED]),
        (("erl-left",), False, [LEFT]),
    ],
)
def test_to_remove(names: tuple[str, ...], everything: bool, expected: list[Standing]) -> None:
    assert to_remove([USED, LEFT], names, everything) == expected
