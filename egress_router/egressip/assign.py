"""Write the automatic assignment down, for the agents to follow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from egress_router.egressip.patch import locked, write_atomically
from egress_router.egressip.source import read_directory
from egress_router.model.egressip import Decision
from egress_router.plan.egressip.decision import decide

FILE = "egressip-assignment.json"


def record_assignment(directory: Path, offline: Iterable[str]) -> Decision:
    """Decide with the recorded assignment as the present one, and record the result; nothing is written when it is the
    same. Raises ConfigurationError when the objects have a problem.
    """
    with locked(directory):
        state = read_directory(directory)
        decision = decide(state, offline)
        if dict(decision.assignment) != dict(state.assignment):
            assignment = {node: list(ips) for node, ips in decision.assignment.items()}
            value = {"kind": "EgressIPAssignment", "metadata": {"name": "automatic"}, "assignment": assignment}
            write_atomically(directory / FILE, json.dumps(value, indent=2) + "\n")
        return decision
