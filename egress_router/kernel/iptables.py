"""The legacy iptables backend: own chains in nat, filter and mangle; python-iptables in one child per family."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress_router import errors
from egress_router.errors import EgressRouterError, PlatformError, ToolFailed
from egress_router.model.addresses import Family
from egress_router.model.iptables import IptTable
from egress_router.model.translation import Counters, Translation
from egress_router.render.iptables_tables import iptables_tables

_NAMES = {Family.IPV4: "/proc/net/ip_tables_names", Family.IPV6: "/proc/net/ip6_tables_names"}
_TABLES = ("filter", "mangle", "nat")
_TIMEOUT_SECONDS = 120.0


class Iptables:
    """Implements ``NatBackend`` with legacy iptables."""

    name = "iptables"

    def apply(self, desired: Translation) -> bool:
        """See NatBackend. IPv4 and IPv6 are committed side by side."""
        return any(_in_children(desired, "apply").values())

    def mend(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return [line for lines in _in_children(desired, "mend").values() for line in lines]

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return [line for lines in _in_children(desired, "drift").values() for line in lines]

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        found: dict[int, Counters] = {}
        for family, tables in _in_children(desired, "counters").items():
            found |= _by_line(desired, family, tables)
        return found

    def remove(self) -> None:
        """See NatBackend."""
        jobs = {family: _start(family, "remove", _TABLES) for family in _families(None)}
        for job in jobs.values():
            job.result()


def _families(desired: Translation | None) -> list[Family]:
    """Return the families that the kernel has iptables for; those that are needed must be among them."""
    found = [family for family in Family if Path(_NAMES[family]).exists()]
    for family in desired.sources if desired else ():
        if family not in found:
            raise PlatformError(
                f"this kernel offers no legacy iptables for {family} ({_NAMES[family]} is missing): "
                "set EGRESS_NAT_BACKEND=nftables"
            )
    return found


def _in_children(desired: Translation, verb: str) -> dict[Family, Any]:
    jobs = {family: _start(family, verb, iptables_tables(desired, family)) for family in _families(desired)}
    return {family: job.result() for family, job in jobs.items()}


def _by_line(
    desired: Translation, family: Family, tables: dict[str, list[tuple[int, int, int]]]
) -> dict[int, Counters]:
    """Connections are what the nat rules counted, packets and bytes what mangle counted; the fallback gets the rest."""
    found = {rule.line: Counters() for rule in desired.rules.redirects if rule.family == family}
    found |= {rule.line: Counters() for rule in desired.rules.fallbacks if rule.family == family}
    total = [0, 0]
    for line, packets, size in tables.get("mangle", ()):
        if line == 0:
            total = [total[0] + packets, total[1] + size]
        elif line in found:
            found[line] = Counters(0, packets, size)
    rest = Counters(
        0, total[0] - sum(c.packets for c in found.values()), total[1] - sum(c.bytes for c in found.values())
    )
    for fallback in desired.rules.fallbacks:
        if fallback.family == family:
            found[fallback.line] = rest
    for line, packets, _ in tables.get("nat", ()):
        if line in found:
            old = found[line]
            found[line] = Counters(old.connections + packets, old.packets, old.bytes)
    return found


@dataclass(slots=True)
class _Job:
    """A child at work; its answer comes as JSON through a pipe."""

    family: Family
    verb: str
    pid: int
    pipe: int
    errors: int

    def result(self) -> Any:
        """Wait for the answer. Raises the child's error, or ToolFailed when it ended without one."""
        answer, stderr = self._read()
        _, status = os.waitpid(self.pid, 0)
        try:
            message = json.loads(answer)
        except ValueError:
            # python-iptables calls exit() on errors of its C library; silence is a failure, whatever the status.
            how = f"status {os.waitstatus_to_exitcode(status)}"
            raise ToolFailed(["iptables", self.verb, str(self.family)], how, stderr) from None
        if "error" in message:
            kind = getattr(errors, message["kind"], PlatformError)
            raise (kind if issubclass(kind, EgressRouterError) else PlatformError)(message["error"])
        return message["result"]

    def _read(self) -> tuple[bytes, str]:
        data: dict[int, bytes] = {self.pipe: b"", self.errors: b""}
        waiting = set(data)
        end = time.monotonic() + _TIMEOUT_SECONDS
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
                end = time.monotonic() + 1
            for fd in ready:
                chunk = os.read(fd, 65536)
                data[fd] += chunk
                if not chunk:
                    waiting.discard(fd)
                    os.close(fd)
        return data[self.pipe], data[self.errors].decode(errors="replace")


def _start(family: Family, verb: str, argument: tuple[IptTable, ...] | tuple[str, ...]) -> _Job:
    """Fork a child that does ``verb`` of iptables_child.Tables; fork, since it starts with all modules loaded."""
    read_end, write_end = os.pipe()
    read_errors, write_errors = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        os.close(write_errors)
        return _Job(family, verb, pid, read_end, read_errors)
    status = 1
    try:
        os.dup2(write_errors, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        message = _answer(lambda: _work(family, verb, argument))
        with os.fdopen(write_end, "w") as pipe:
            json.dump(message, pipe)
        status = 0
    finally:
        os._exit(status)


def _work(family: Family, verb: str, argument: tuple[IptTable, ...] | tuple[str, ...]) -> Any:
    from egress_router.kernel.iptables_child import Tables

    return getattr(Tables(family), verb)(argument)


def _answer(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": work()}
    except EgressRouterError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except Exception as error:  # noqa: BLE001 - everything must reach the parent, which has the log
        import traceback

        text = "".join(traceback.format_exception(error))
        return {"error": f"a bug of egress-router, in the iptables child:\n{text}", "kind": "EgressRouterError"}
