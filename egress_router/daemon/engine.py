"""What the supervisor asks of an engine (Squid, HAProxy), and one generation of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from egress_router.daemon.children import Child, Launch

Prepared = TypeVar("Prepared")


class Engine(Protocol[Prepared]):
    """What the supervisor must know about a proxy. All methods but ``prepare`` are called from its loop and must not
    block long.

    A generation may be several children that share the work; each is told of on its own.
    """

    name: str

    def watched(self) -> Iterable[Path]:
        """Return the files whose change means a reload. Asked once."""

    def prepare(self, generation: int) -> Prepared:
        """Read the configuration, write the generation's files and have the engine check them. Called from a thread,
        one call at a time, while the loop goes on.

        Changes nothing that is in force. Raises EgressRouterError when the configuration cannot be used.
        """

    def launch(self, prepared: Prepared, previous: Child | None) -> Sequence[Launch]:
        """Return how to start the children of a prepared configuration; ``previous`` is one in force, if any is.

        May be called again for a configuration whose children ended, and must not need what ``ended`` removed.
        """

    def ready(self, child: Child, prepared: Prepared) -> bool:
        """Return whether the new child accepts connections."""

    def retire(self, child: Child, final: bool) -> None:
        """Make a child finish: its successor is ready, or (``final``) the container stops. Called once for each."""

    def finished(self, child: Child, seconds: float) -> bool:
        """Return whether a child retired ``seconds`` ago has nothing left to do and may be killed."""

    def may_replace(self) -> bool:
        """Return whether another generation may start now; a reload waits until it may."""

    def on_output(self, child: Child, line: str) -> None:
        """Take one line of a child's output."""

    def ended(self, child: Child) -> None:
        """Take notice that a child was reaped: remove its files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. ``grace`` is EGRESS_SHUTDOWN_GRACE, ``delay`` EGRESS_SHUTDOWN_DELAY (for so long after SIGTERM
    it says that it is not ready, and takes new connections), the rest rarely needs a change.

    ``start``: a child that is not ready by then has failed. ``drain``: a generation that was replaced may finish
    for this long (None: as long as it has something to do). ``deaths`` in a row, each before it ran for
    ``steady`` seconds, end the supervisor; the delay before a restart doubles from ``backoff`` to ``backoff_max``.
    ``prepare``: when the engine takes longer to read and check a configuration, /healthz says so.
    ``draining_generations``: more old generations than this are not kept, the oldest is ended.
    """

    grace: float = 30.0
    delay: float = 0.0
    start: float = 30.0
    drain: float | None = None
    prepare: float = 150.0
    steady: float = 10.0
    deaths: int = 5
    backoff: float = 0.1
    backoff_max: float = 5.0
    draining_generations: int = 16


@dataclass(slots=True)
class Counters:
    """What happened so far. ``generation`` is the number of the start whose child is in force; every start takes one,
    also one that fails. ``reloads`` counts reloads that were put in force, ``reload_failures`` those refused;
    ``refused`` while the last one was, so that the configuration in force is not the one that is asked for.
    """

    generation: int = 0
    ready: bool = False
    draining: int = 0
    restarts: int = 0
    reloads: int = 0
    reload_failures: int = 0
    refused: bool = False
    last_error: str = ""


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
