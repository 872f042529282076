"""How bad something is, as every page shows it."""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """How bad something is; the worst comes first."""

    CUT_OFF = 0
    DEGRADED = 1
    FINE = 2

    @property
    def word(self) -> str:
        """The word that is shown: a state is never told by colour alone."""
        return {0: "cut off", 1: "degraded", 2: "fine"}[self.value]

    @property
    def sign(self) -> str:
        """A sign of a shape of its own."""
        return {0: "✖", 1: "▲", 2: "●"}[self.value]
