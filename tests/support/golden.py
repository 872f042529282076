"""Whether expected files are written anew: ``pytest --golden-update`` (read the diff before it is committed)."""

from __future__ import annotations

import os

#: Set by the option, so that helpers and worker processes see it too.
_VARIABLE = "EGRESS_ROUTER_TESTS_GOLDEN_UPDATE"


def updating() -> bool:
    """Tell whether the expected files shall be written."""
    return os.environ.get(_VARIABLE) == "1"


def update() -> None:
    """Have them written by this process and its children."""
    os.environ[_VARIABLE] = "1"
