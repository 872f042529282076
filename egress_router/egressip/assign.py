"""Write the automatic assignment down, for the agents to follow."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from egress_router.egressip.lease import DirectoryLease
from egress_router.egressip.patch import locked, write_atomically
from egress_router.egressip.source import read_directory
from egress_router.errors import TryAgainError
from egress_router.model.egressip import Decision
from egress_router.plan.egressip.decision import decide

FILE = "egressip-assignment.json"


class AssignmentRecord(Protocol):
    """Where the assignment is written down."""

    def write(self, assignment: Mapping[str, Collection[str]], offline: Iterable[str]) -> None:
        """Replace what is written down, as a whole or not at all. Raises OSError or EgressRouterError."""


class DirectoryRecord:
    """A file of the state directory, replaced atomically."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, assignment: Mapping[str, Collection[str]], offline: Iterable[str]) -> None:
        """Write the EgressIPAssignment object."""
        value = {
            "kind": "EgressIPAssignment",
            "metadata": {"name": "automatic"},
            "assignment": {node: list(ips) for node, ips in assignment.items()},
            "offline": sorted(offline),
        }
        write_atomically(self._directory / FILE, json.dumps(value, indent=2) + "\n")


def record_assignment(directory: Path, offline: Iterable[str]) -> Decision:
    """Decide with the recorded assignment as the present one, and record the result; nothing is written when it is the
    same. Raises ConfigurationError when the objects have a problem, TryAgainError when a controller does this already.
    """
    lease = DirectoryLease(directory)
    if not lease.acquire():
        raise TryAgainError(f"the controller assigns ({lease.holder()}); two must not")
    down = sorted(set(offline))
    try:
        with locked(directory):
            state = read_directory(directory)
            decision = decide(state, down)
            if dict(decision.assignment) != dict(state.assignment) or tuple(down) != state.assigned_without:
                DirectoryRecord(directory).write(decision.assignment, down)
            return decision
    finally:
        lease.release()
