"""HAProxy's servers made equal to the answers of DNS: read, compare, command."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from egress_router.config.values import Address, HostName
from egress_router.dns_proxy.destinations import DnsProxyConfig
from egress_router.dns_proxy.haproxy.runtime import RuntimeSocket, backend_name, runtime_commands
from egress_router.dns_proxy.haproxy.slots import steps
from egress_router.errors import printable

log = logging.getLogger(__name__)

#: What HAProxy answers when all is well; most commands say nothing then.
_FINE = re.compile(r"New server registered\.|IP changed from .*|no need to change .*")


class ServerSync:
    """The servers of one HAProxy process."""

    def __init__(self, config: DnsProxyConfig, socket: Path) -> None:
        self._config = config
        self._socket = RuntimeSocket(socket)
        self._done: dict[int, frozenset[Address]] = {}

    def run(self, known: Mapping[HostName, Sequence[Address]], *, compare: bool = True) -> None:
        """Bring the servers of all lines with a name of ``known`` up to date.

        Without ``compare`` lines whose answer is the one of the last run are skipped. A HAProxy that does not answer is
        on its way out or in; the next run finds it, or its successor.
        """
        lines = [(item, known[item.name]) for item in self._config.destinations if item.name and item.name in known]
        if not compare:
            lines = [(item, now) for item, now in lines if self._done.get(item.port) != frozenset(now)]
        if not lines:
            return
        try:
            actual = self._socket.servers(backend_name(lines[0][0]) if len(lines) == 1 else "")
            todo: list[str] = []
            for item, addresses in lines:
                there = actual.get(backend_name(item), [])
                todo += runtime_commands(item, steps(addresses, there), self._config.sources)
            if todo:
                _report(todo, self._socket.send(todo))
            self._done.update({item.port: frozenset(addresses) for item, addresses in lines})
        except (OSError, ValueError) as error:
            self._done.clear()
            log.debug("haproxy does not answer: %s", error)


def _report(commands: Sequence[str], answer: str) -> None:
    """Log what HAProxy refused. The next comparison of all servers, within half a minute, tries again."""
    complaints = [line for line in answer.splitlines() if line.strip() and not _FINE.match(line.strip())]
    if complaints:
        log.warning("haproxy: %s", printable("; ".join(complaints), 500))
    log.debug("haproxy was told: %s", "; ".join(commands))
