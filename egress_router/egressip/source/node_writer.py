"""What an agent writes to the Kubernetes API: the status of its EgressNode, and of the assignments to its node."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from egress_router import __version__
from egress_router.egressip.source.api_objects import ASSIGNMENTS, EGRESS_NODES, Assignment
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.write_loop import WriteLoop
from egress_router.kubernetes.client import MERGE_PATCH, ApiError, Client
from egress_router.kubernetes.lease import NOT_FOUND

#: The agent is looked at so often, and EgressNode written at most so often; seconds.
LOOK, EVERY = 0.25, 2.0
MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What an agent says about its node. ``held``: addresses on the interface that it translates to; ``pending``: those
    that it shall have and has not, with the reason (a word) and the sentence.
    """

    ready: bool
    reasons: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    interface_subnets: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    pending: Mapping[str, tuple[str, str]] | None = None
    draining: bool = False
    drained: bool = False
    connections: int | None = None
    #: The EgressNode asked for the drain: of an agent before this one, too.
    drain_by_api: bool = False


def node_status(report: NodeReport) -> dict[str, Any]:
    """Return the status of the EgressNode, its condition without a time."""
    drain: dict[str, Any] | None = None
    if report.draining:
        drain = {"phase": "HandedOver" if report.drained else "Draining", "connections": report.connections or 0}
    if report.ready:
        ready = ("True", "Draining" if report.draining else "Translating", "pods' traffic is translated")
    else:
        ready = ("False", "NotApplied", "; ".join(report.reasons)[:MESSAGE] or "not ready yet")
    return {
        "hostIPs": list(report.host_ips),
        "interfaceSubnets": list(report.interface_subnets),
        "heldIPs": sorted(report.held),
        "pending": [
            {"egressIP": ip, "reason": reason, "message": message}
            for ip, (reason, message) in sorted((report.pending or {}).items())
        ],
        "drain": drain,
        "version": __version__,
        "conditions": [{"type": "Ready", "status": ready[0], "reason": ready[1], "message": ready[2]}],
    }


def announced(report: NodeReport, ip: str) -> tuple[str, str, str]:
    """Return status, reason and message of the condition Announced of an address that this node shall have."""
    if ip in report.held:
        if report.drained:
            return "False", "HandedOver", "nothing answers for it here any more"
        return "True", "Held", "on the interface, and translated to"
    reason, message = (report.pending or {}).get(ip, ("Pending", "not on the interface yet"))
    return "False", reason, message


class NodeWriter:
    """Calls ``report`` in a thread of its own, and ``drain`` when the EgressNode says otherwise whether to."""

    def __init__(
        self,
        client: Client,
        source: KubernetesSource,
        node: str,
        report: Callable[[], NodeReport],
        drain: Callable[[bool], None],
        log: Callable[[str], None],
    ) -> None:
        self._client = client
        self._source = source
        self._node = node
        self._report = report
        self._drain = drain
        self._written: tuple[str, str] = ("", "")
        self._since: dict[str, tuple[str, str]] = {}
        self._next = 0.0
        self._announced: dict[str, tuple[str, ...]] = {}
        self._wanted_drain: bool | None = None
        self.writes = 0
        #: Its thread.
        self.loop = WriteLoop(self.turn, every=LOOK, log=log)

    def turn(self, now: float) -> None:
        """Write what differs from what was written last. Raises EgressRouterError."""
        report = self._report()
        own = next((node for node in self._source.egress_nodes.objects().values() if node.name == self._node), None)
        if own is not None:
            wanted = own.drain or own.cordoned
            if self._wanted_drain is None:
                # What was asked for may have been taken back while no agent ran.
                self._wanted_drain = report.drain_by_api
            if wanted != self._wanted_drain:
                self._wanted_drain = wanted
                self._drain(wanted)
            if now >= self._next:
                self._write_node(own.uid, report, now)
        for entry in self._source.assignments.objects().values():
            if entry.node == self._node:
                self._write_assignment(entry, report)

    def _time(self, key: str, status: str) -> str:
        """Return since when a condition has its status."""
        before = self._since.get(key)
        if before is None or before[0] != status:
            self._since[key] = before = (status, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        return before[1]

    def _write_node(self, uid: str, report: NodeReport, now: float) -> None:
        status = node_status(report)
        for entry in status["conditions"]:
            entry["lastTransitionTime"] = self._time(entry["type"], entry["status"])
        text = json.dumps(status, sort_keys=True)
        if (uid, text) == self._written:
            return
        body = {"metadata": {"uid": uid}, "status": status}
        path = f"{EGRESS_NODES}/{self._node}/status"
        self._next = now + EVERY
        self.loop.beat()
        self._source.egress_nodes.assume(self._client.request("PATCH", path, body=body, content_type=MERGE_PATCH))
        self._written = (uid, text)
        self.writes += 1

    def _write_assignment(self, entry: Assignment, report: NodeReport) -> None:
        status, reason, message = announced(report, entry.egress_ip)
        key = (entry.uid, self._node, status, reason, message)
        if self._announced.get(entry.name) == key and (entry.announced_by, entry.announced) == (self._node, reason):
            return
        condition = {
            "type": "Announced",
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": self._time(entry.name, status),
        }
        body = {"metadata": {"uid": entry.uid}, "status": {"node": self._node, "conditions": [condition]}}
        path = f"{ASSIGNMENTS}/{entry.name}/status"
        self.loop.beat()
        try:
            self._source.assignments.assume(self._client.request("PATCH", path, body=body, content_type=MERGE_PATCH))
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            return
        self._announced[entry.name] = key
        self.writes += 1
