"""Whether a proxy is well, as its supervisor and the engine itself see it now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from egress_router.proxy.supervisor import Supervisor

#: Seconds that an answer of the engine serves: many may ask, and each question is work for the proxy.
FRESH = 1.0


class ProxyHealth:
    """The subject of the endpoint (endpoint.server.Subject).

    ``probe`` asks the engine and returns why it does not accept connections now, a sentence each; it may take seconds.
    """

    def __init__(self, supervisor: Supervisor[Any], probe: Callable[[], Sequence[str]]) -> None:
        self._supervisor = supervisor
        self._probe = probe
        self._lock = threading.Lock()
        self._asked = 0.0
        self._answer: list[str] = []

    @property
    def turned(self) -> float:
        """When the supervisor's loop last turned."""
        return self._supervisor.turned

    def reasons(self, now: float) -> list[str]:
        """Return why no connections should be sent here, a sentence each; nothing when all is well."""
        if self._supervisor.stopping:
            return ["leaving"]
        if not self._supervisor.counters.ready:
            error = self._supervisor.counters.last_error.partition("\n")[0]
            return [f"{self._supervisor.engine.name} is not in force{': ' if error else ' yet'}{error}"]
        with self._lock:
            if now - self._asked > FRESH:
                self._answer = list(self._probe())
                self._asked = time.monotonic()
            return list(self._answer)

    def as_json(self) -> dict[str, Any]:
        """Return the state as plain values."""
        reasons = self.reasons(time.monotonic())
        return {**asdict(self._supervisor.counters), "ready": not reasons, "reasons": reasons}
