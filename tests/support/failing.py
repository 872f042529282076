"""Run a process in which something fails that nobody foresaw: ``python -m tests.support.failing WHERE TIMES VERB…``.

WHERE is MODULE:NAME.NAME, a function that raises RecursionError the first TIMES times it is called, or "always".
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def break_it(where: str, times: float) -> None:
    """Have the function ``where`` fail."""
    module, _, path = where.partition(":")
    *outer, name = path.split(".")
    owner: Any = import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    sound = getattr(owner, name)
    failures = 0

    def broken(*arguments: Any, **named: Any) -> Any:
        nonlocal failures
        if failures < times:
            failures += 1
            raise RecursionError("injected")
        return sound(*arguments, **named)

    setattr(owner, name, broken)


if __name__ == "__main__":
    from egress_router.cli.main import main

    break_it(sys.argv[1], float("inf") if sys.argv[2] == "always" else float(sys.argv[2]))
    main(sys.argv[3:])
