"""What a change of a pod costs an agent: `python -m bench.pod_events [PODS]`. Needs no root and no API server.

A node that holds the egress IP of all pods of a cluster (1,000 nodes, 200 namespaces) hears of pods one by one. Prints
milliseconds of processor time a change: of the thread that reads the watch and of the look at what it brought, where a
label changes and where an address does; and of all that an agent makes of a changed address but for talking to its
kernel. Objects come from memory in place of a connection, so TLS and HTTP are not in it.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from egress_router.egressip.api import Decision
from egress_router.egressip.assignment.decision import Evaluator, with_recorded_assignment
from egress_router.egressip.node.plan import PlanInputs, Planner
from egress_router.egressip.node.reassignment import ReassignmentGuard
from egress_router.egressip.node.state import NodeSettings
from egress_router.egressip.node.table_maker import TableMaker
from egress_router.egressip.source.groups import LocalNode
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.kubernetes.client import Client
from egress_router.net.nft.script import chain_changes, change_script, element_changes

NODES, NAMESPACES, CHANGES = 1000, 200, 500
IP = "192.0.200.1"
#: About as large as a usual pod with managedFields.
FILLER: dict[str, Any] = {"fieldsV1": {f"f:{number}": {"f:name": {}, "f:value": {}} for number in range(120)}}


def event(kind: str, value: dict[str, Any]) -> bytes:
    """Return a line of a watch."""
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


def pod(number: int, version: int, label: str = "", ip: str = "") -> dict[str, Any]:
    """Return a running pod."""
    ip = ip or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    metadata = {
        "name": f"p{number}",
        "namespace": f"n{number % NAMESPACES}",
        "uid": f"u{number}",
        "resourceVersion": str(version),
        "labels": {"app": f"a{number % 50}", "changed": label},
        "managedFields": [FILLER],
    }
    spec = {"nodeName": f"w{number % NODES}", "containers": [{"name": "main", "image": "none"}]}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "podIPs": [{"ip": ip}]}}


class Watch:
    """Gives its lines, and then those that are put."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for line in lines:
            self.lines.put(line)

    def readline(self, _limit: int) -> bytes:
        """Return the next one."""
        return self.lines.get()

    def interrupt(self) -> None:
        """End."""
        self.lines.put(b"")

    def close(self) -> None:
        """End."""


class Server:
    """In place of a client; ``watches`` are the open ones."""

    def __init__(self, pods: int) -> None:
        self.watches: dict[str, Watch] = {}
        namespaces = [{"name": f"n{n}", "uid": f"n{n}", "labels": {"env": "all"}} for n in range(NAMESPACES)]
        spec = {"egressIPs": [IP], "namespaceSelector": {"matchLabels": {"env": "all"}}}
        node = {"egressIP": IP, "node": "w0", "epoch": 1}
        self._objects: dict[str, list[dict[str, Any]]] = {
            "namespaces": [{"metadata": metadata} for metadata in namespaces],
            "egressips": [{"metadata": {"name": "all", "uid": "all"}, "spec": spec}],
            "egressipassignments": [{"metadata": {"name": IP, "uid": IP}, "spec": node}],
            "egressnodes": [
                {
                    "metadata": {"name": f"w{n}", "uid": f"w{n}"},
                    "status": {"hostIPs": [f"192.0.{n // 250}.{n % 250 + 1}"]},
                }
                for n in range(NODES)
            ],
            "pods of others": [pod(n, 1) for n in range(pods) if n % NODES],
            "pods": [pod(n, 1) for n in range(pods) if n % NODES == 0],
        }

    def stream(self, path: str, query: dict[str, str], *_: object) -> Watch:
        """Begin a watch with initial events."""
        name = path.rpartition("/")[2]
        if "!=w0" in query.get("fieldSelector", ""):
            name = "pods of others"
        end = {"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}}
        lines = [event("ADDED", value) for value in self._objects[name]]
        self.watches[name] = Watch([*lines, event("BOOKMARK", end)])
        return self.watches[name]


def start(name: str, target: Callable[[Callable[[], None]], None], *, limit: float) -> threading.Thread:
    """Start a thread that nobody watches, whatever its ``limit`` is."""
    del limit
    thread = threading.Thread(target=target, args=(lambda: None,), name=name, daemon=True)
    thread.start()
    return thread


class Agent:
    """What an agent makes of the objects, up to the script for its kernel."""

    def __init__(self) -> None:
        self._settings = NodeSettings("w0", "eth0", ())
        self._evaluator = Evaluator(follows=True)
        self._guard, self._planner, self._maker = ReassignmentGuard(), Planner(), TableMaker(self._settings)
        self._given: Any = None
        self._nodes: Any = {}
        self._decision = Decision({}, {}, {})
        self._tables: Any = None

    def apply(self, state: Any) -> str:
        """Return the script."""
        if self._given is None or state.nodes is not self._given:
            self._given = state.nodes
            self._nodes = with_recorded_assignment(state).nodes
            self._evaluator.update(dict(state.namespaces), dict(self._nodes), set())
            self._decision = self._evaluator.decision()
        self._guard.follow("w0", state, self._decision)
        inputs = PlanInputs("w0", state.namespaces, self._nodes, self._decision, {}, frozenset({IP}))
        tables = self._maker.make(self._planner.plan(inputs, state.pods, frozenset(), {}), 1450)
        script = ""
        for old, new in zip(self._tables or (), tables, strict=False):
            changes = element_changes(old, new)
            assert changes is not None
            script += change_script(changes, new.name, chain_changes(old, new))
        self._tables = tables
        return script


def measure(pods: int) -> dict[str, float]:
    """Return the figures, milliseconds a change."""
    server = Server(pods)
    began = time.process_time()
    source = KubernetesSource(cast("Client", server), start, LocalNode("w0", ("192.0.0.1",)))
    while True:
        try:
            state, _ = source.read()
            break
        except OSError:
            source.wait(10)
    figures = {"all, from the first byte (s)": time.process_time() - began}
    agent = Agent()
    agent.apply(state)
    numbers = [n for n in range(1, pods) if n % NODES][:CHANGES]
    kinds = {
        "a label": [pod(n, 2, label=str(n)) for n in numbers],
        "an address": [pod(n, 3, ip=f"10.200.{n >> 8 & 255}.{n & 255}") for n in numbers],
    }
    for kind, values in kinds.items():
        lines = [event("MODIFIED", value) for value in values]
        spent = 0.0
        began = time.process_time()
        for line in lines:
            server.watches["pods of others"].lines.put(line)
            source.wait(10)
            state, _ = source.read()
            if kind == "an address":
                before = time.process_time()
                assert agent.apply(state), "positive control: something changes in the kernel"
                spent += time.process_time() - before
        took = time.process_time() - began - spent
        figures[f"{kind}: read and grouped"] = took / len(lines) * 1000
        if spent:
            figures[f"{kind}: decided, planned, written"] = spent / len(lines) * 1000
    return figures


def main() -> None:
    """Print the figures."""
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name, value in measure(pods).items():
        print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
