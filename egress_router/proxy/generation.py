"""One checked configuration and the children that run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from egress_router.proxy.child import Child
from egress_router.proxy.engine import Prepared


@dataclass(slots=True, eq=False)
class Generation(Generic[Prepared]):
    """``children`` are those that live, out of ``wanted``. Times are monotonic seconds: ``since`` its start, or when it
    came in force; ``retired`` and ``deadline`` once it drains (None: it may take as long as it likes).
    ``first_dead`` is the child that the others had to follow.
    """

    number: int
    prepared: Prepared
    since: float
    #: A reload asked for it, whatever else did.
    asked: bool = False
    children: list[Child] = field(default_factory=list)
    retired: float = 0.0
    deadline: float | None = None
    wanted: int = 0
    first_dead: Child | None = None

    @property
    def whole(self) -> bool:
        """Whether none of its children has died."""
        return len(self.children) == self.wanted

    def signal(self, number: int) -> None:
        """Send a signal to every child."""
        for child in self.children:
            child.signal(number)
