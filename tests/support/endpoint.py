"""What a process that stays shows over HTTP, as a client of the cluster sees it."""

from __future__ import annotations

import time
from collections.abc import Callable

from egress_router.daemon.endpoint import FRESH_SECONDS
from lab import Host
from tests.support import figures

PORT = 9909
#: When figures came last, by address and port.
_FIGURES_CAME: dict[str, float] = {}


class Endpoint:
    """The endpoint at ``address``, asked from ``client``."""

    def __init__(self, client: Host, address: str, port: int = PORT) -> None:
        self.client = client
        self._at = f"http://{f'[{address}]' if ':' in address else address}:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """GET ``path``; return status (0: no answer) and body. Figures are new ones: not those that were kept."""
        if path == "/metrics":
            time.sleep(max(0.0, _FIGURES_CAME.get(self._at, 0.0) + FRESH_SECONDS + 0.1 - time.monotonic()))
        command = ["curl", "-sg", "-m", "5", "-w", "%{http_code}", self._at + path]
        done = self.client.run(command, check=False)
        if path == "/metrics":
            _FIGURES_CAME[self._at] = time.monotonic()
        return int(done.stdout[-3:] or 0), done.stdout[:-3]

    def healthy(self) -> bool:
        return self.get("/healthz") == (200, "ok\n")

    def ready(self) -> bool:
        return self.get("/readyz") == (200, "ready\n")

    def remarks(self, text: str) -> bool:
        """Whether it is ready, and says ``text`` besides."""
        status, body = self.get("/readyz")
        return status == 200 and text in body

    def unready(self, text: str) -> bool:
        status, body = self.get("/readyz")
        return status == 503 and text in body

    def figures(self) -> dict[str, float]:
        """Return /metrics by name with labels."""
        status, text = self.get("/metrics")
        assert status == 200, text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def figure(self, name: str) -> float:
        """Return one of them; it must be there."""
        return self.figures()[name]

    def check_figures(self, mode: str) -> None:
        """Compare all of them with the list of ``mode``."""
        figures.check(mode, self.get("/metrics")[1])

    def until(self, true: Callable[[], object], what: str, seconds: float = 15.0) -> None:
        """Wait until ``true()``."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"waited for: {what}; {self.get('/readyz')}"
            time.sleep(0.05)
