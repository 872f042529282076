"""Modules that a library imports and asks only when something goes wrong: loaded then, for processes that must start
quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """Stands for the module of this name, and loads it when it is asked something."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def postponed(name: str) -> Iterator[None]:
    """While it lasts, who imports a module gets one that stands for it; afterwards it is imported as ever. Nothing is
    postponed that is there already.
    """
    stands_in = None if name in sys.modules else _Postponed(name)
    if stands_in is not None:
        sys.modules[name] = stands_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stands_in:
            del sys.modules[name]
