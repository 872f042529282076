"""What agent and controller write to the Kubernetes API is written by a thread of its own, again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from egress_router.errors import EgressRouterError
from egress_router.kubernetes.client import ApiError
from egress_router.kubernetes.thread import Heartbeat, StartThread, pause

#: After a request that the server refused or did not answer, at least so long passes; seconds.
AFTER_ERROR = 2.0
#: A request may take so long, over a connection that is made first, before the thread counts as stuck; seconds.
STUCK = 120.0


class WriteLoop:
    """Calls ``turn`` every ``every`` seconds. What the server refuses is logged once, until it takes something."""

    def __init__(
        self, turn: Callable[[float], object], *, every: float, log: Callable[[str], None], name: str = "status"
    ) -> None:
        """``name`` is that of the thread. ``turn`` gets the time (time.monotonic()), writes what differs, and raises
        EgressRouterError.
        """
        self._turn = turn
        self._name = name
        self._every = every
        self._log = log
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble = ""
        #: To be called before each request: the heartbeat of the thread.
        self.beat: Heartbeat = lambda: None

    def start(self, start: StartThread) -> None:
        """Begin."""
        self._thread = start(self._name, self._run, limit=STUCK)

    def stop(self) -> None:
        """End, and wait for the request that is under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _run(self, beat: Heartbeat) -> None:
        self.beat = beat
        wait = self._every
        while not pause(self._stopping, wait, beat):
            wait = self._every
            try:
                self._turn(time.monotonic())
                self._trouble = ""
            except EgressRouterError as error:
                wait = max(AFTER_ERROR, error.retry_after if isinstance(error, ApiError) else 0.0)
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self._log(f"{self._name}: {error}")
