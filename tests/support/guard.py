"""Refuses sockets and child processes, for tests of pure code.

An audit hook (PEP 578) sees them wherever they are made, also in C code. It can't be removed once it was added, so
it obeys a switch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

REFUSED = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "socket.__new__",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.sendmsg",
        "socket.sendto",
        "subprocess.Popen",
    }
)


class Refused(BaseException):
    """A pure test reached for the system. Not an Exception, so that no handler of the tested code swallows it."""


class Guard:
    """The switch, and what was refused while it was on."""

    def __init__(self) -> None:
        self.on = False
        self.violations: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event in REFUSED:
            self.violations.append(f"{event} {arguments}")
            raise Refused(f"a unit test must not reach the system: {event} {arguments}")

    @contextmanager
    def watching(self) -> Iterator[Guard]:
        """Refuse until the end; what was refused (even if the refusal was swallowed) fails there."""
        self.violations.clear()
        self.on = True
        try:
            yield self
        finally:
            self.on = False
        if self.violations:
            raise AssertionError("a unit test reached for the system: " + "; ".join(self.violations))


GUARD = Guard()
