"""The right to assign, which one process in the cluster has, and the record of what it assigned.

In a state directory the right is a lock that the kernel takes back when its process ends, however it ends; a source
that reads the Kubernetes API puts a Lease there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from egress_router.config.files import read_regular
from egress_router.egressip.api import NO_STANDBYS, Decision
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.source.directory import read_directory
from egress_router.egressip.source.patch import locked, write_atomically
from egress_router.errors import PlatformError, TryAgainError, UsageError, printable

LOCK_FILE = ".egressip-controller.lock"


class Lease(Protocol):
    """Held by at most one process at a time."""

    def acquire(self) -> bool:
        """Try to get it, at once; True when this process has it."""

    def held(self) -> bool:
        """Tell whether this process still has it."""

    def holder(self) -> str:
        """Return who has it, for a log."""

    def release(self) -> None:
        """Give it back."""


class DirectoryLease:
    """flock(2) on a hidden file of the state directory: never two holders, and nothing left behind by kill -9. On NFS
    it needs version 4, which locks across machines.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Try to lock the file. Raises UsageError without the directory, PlatformError when the system refuses."""
        if self._handle is not None:
            return True
        try:
            # A link would have another file emptied, and a pipe cannot be.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(self._path, flags, 0o644)
        except OSError as error:
            kind = UsageError if error.errno in (errno.ENOENT, errno.ENOTDIR) else PlatformError
            raise kind(f"{self._path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                return False
            raise PlatformError(f"{self._path} cannot be locked: {error.strerror}") from error
        self._handle = handle
        if not self.held():
            # Somebody put another file in its place between opening and locking.
            self.release()
            return False
        # Who it is: for others to read, so a full disk does not matter.
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{socket.gethostname()} process {os.getpid()}\n".encode(), 0)
        return True

    def held(self) -> bool:
        """Tell whether the locked file is the one that another process would find."""
        if self._handle is None:
            return False
        try:
            there = self._path.stat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._handle))

    def holder(self) -> str:
        """Return what the holder wrote into the file."""
        try:
            return printable(read_regular(self._path, 200).decode(errors="replace").strip()) or "another process"
        except OSError:
            return "another process"

    def release(self) -> None:
        """Close the file, which unlocks it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


RECORD_FILE = "egressip-assignment.json"


class AssignmentRecord(Protocol):
    """Where the assignment is written down."""

    def write(
        self,
        assignment: Mapping[str, Collection[str]],
        offline: Iterable[str],
        standbys: Mapping[str, str] = NO_STANDBYS,
    ) -> None:
        """Replace what is written down, as a whole or not at all; ``standbys``: the node that takes each address over.
        Raises OSError or EgressRouterError.
        """


class DirectoryRecord:
    """A file of the state directory, replaced atomically."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(
        self,
        assignment: Mapping[str, Collection[str]],
        offline: Iterable[str],
        standbys: Mapping[str, str] = NO_STANDBYS,
    ) -> None:
        """Write the EgressIPAssignment object."""
        value = {
            "kind": "EgressIPAssignment",
            "metadata": {"name": "automatic"},
            "assignment": {node: list(ips) for node, ips in assignment.items()},
            "offline": sorted(offline),
            **({"standbys": dict(standbys)} if standbys else {}),
        }
        write_atomically(self._directory / RECORD_FILE, json.dumps(value, indent=2) + "\n")


def record_assignment(directory: Path, offline: Iterable[str], *, standby: bool = False) -> Decision:
    """Decide with the recorded assignment as the present one, and record the result; nothing is written when it is the
    same. ``standby``: with a standby for each address. Raises ConfigurationError when the objects have a problem,
    TryAgainError when a controller does this already, PlatformError when it cannot be written.
    """
    lease = DirectoryLease(directory)
    if not lease.acquire():
        raise TryAgainError(f"the controller assigns ({lease.holder()}); two must not")
    down = sorted(set(offline))
    try:
        with locked(directory):
            state = read_directory(directory)
            decision = decide(state, down, standby=standby)
            before = (dict(state.assignment), state.assigned_without, dict(state.standbys))
            if before != (dict(decision.assignment), tuple(down), dict(decision.standbys)):
                try:
                    DirectoryRecord(directory).write(decision.assignment, down, decision.standbys)
                except OSError as error:
                    raise PlatformError(f"{directory / RECORD_FILE} cannot be written: {error.strerror}") from error
            return decision
    finally:
        lease.release()
