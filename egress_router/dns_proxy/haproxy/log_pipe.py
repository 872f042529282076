"""HAProxy's access log on its way to our standard output, and what it adds up to for each destination: connections
count when they have ended.

HAProxy writes its own remarks ("Proxy port-80 stopped") to the same place as the access log, so it cannot have our
standard output directly: everything there is JSON, one object a line.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from egress_router.daemon.line_pipe import LinePipe
from egress_router.daemon.log import LogOutput

#: HAProxy's termination states (configuration.txt, 8.5) of a connection that no server took: refused or none there,
#: or silent.
UNREACHED = frozenset({"SC", "sC"})


@dataclass(slots=True)
class Traffic:
    """Ended connections of a destination, how many of them reached no server, and bytes of both directions."""

    connections: int = 0
    unreached: int = 0
    bytes: int = 0


class ConnectionStats:
    """Adds up entries of the access log; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: defaultdict[str, Traffic] = defaultdict(Traffic)

    def add(self, entries: Sequence[bytes]) -> None:
        """Count these lines of the log. ValueError or KeyError when one is not as render.haproxy has it."""
        with self._lock:
            for entry in map(json.loads, entries):
                found = self._found[f"{entry['port']} {entry['name']} {entry['to_port']}"]
                found.connections += 1
                found.unreached += entry["state"] in UNREACHED
                found.bytes += entry["bytes_up"] + entry["bytes_down"]

    def read(self) -> dict[str, Traffic]:
        """Return what was counted so far, by destination ("8080 example.com 80")."""
        with self._lock:
            return {text: replace(traffic) for text, traffic in self._found.items()}


class LogPipe(LinePipe):
    """Lines of JSON are counted in ``stats`` and passed to ``output`` (None: to nobody), others to ``remark``."""

    def __init__(self, stats: ConnectionStats, output: LogOutput | None, remark: Callable[[str], None]) -> None:
        self._stats = stats
        self._output = output
        self._remark = remark
        super().__init__(self._sort)

    def _sort(self, lines: list[bytes]) -> None:
        entries = [line for line in lines if line.startswith(b"{")]
        if self._output:
            self._output.put(entries)
        self._stats.add(entries)
        for line in lines:
            if line.strip() and not line.startswith(b"{"):
                self._remark(line.decode("utf-8", "replace"))
