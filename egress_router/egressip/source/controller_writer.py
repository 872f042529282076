"""The controller's second task on the Kubernetes API: EgressNode objects, the status of every EgressIP, and events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from egress_router.egressip.api import Decision
from egress_router.egressip.source.api_objects import API, EGRESS_IPS, EGRESS_NODES, EgressIP
from egress_router.egressip.source.groups import ApiObjects, Grouping
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.kubernetes_status import (
    StatusMaker,
    keep_status,
    moves,
    ready_of,
    selected,
    with_times,
)
from egress_router.egressip.source.pool_writer import PoolWriter
from egress_router.egressip.source.write_loop import WriteLoop
from egress_router.kubernetes.client import MERGE_PATCH, ApiError, Client
from egress_router.kubernetes.events import Events
from egress_router.kubernetes.lease import CONFLICT, NOT_FOUND, KubernetesLease

__all__ = ["ControllerWriter", "keep_status"]

#: Changes are gathered for so long, and at most so many objects are written each time; seconds.
EVERY, MOST_WRITES = 1.0, 50


class ControllerWriter:
    """Works while the lease is held. Writes no more than EVERY and MOST_WRITES allow, and nothing that the object says
    already.
    """

    def __init__(
        self,
        client: Client,
        source: KubernetesSource,
        lease: KubernetesLease,
        decision: Callable[[], Decision],
        log: Callable[[str], None],
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        """``epoch``: that of the lease's holder, which bears what is given from pools; see KubernetesRecord."""
        self._client = client
        self._source = source
        self._lease = lease
        self._decision = decision
        self._events = Events(client, "egress-router.io/controller", lease.identity, log)
        self._grouping = Grouping()
        self._pools = PoolWriter(client, source, lease, epoch, self._events)
        self._done: tuple[ApiObjects, Decision] | None = None
        self.writes = 0
        #: Called with the addresses of each pool, and how many of them are taken.
        self.on_pools: Callable[[Mapping[str, tuple[int, int]]], None] = lambda _pools: None
        #: Its thread.
        self.loop = WriteLoop(self.turn, every=EVERY, log=log)

    def turn(self, now: float = 0.0) -> int:
        """Write what differs, up to MOST_WRITES objects; return how many were written. Raises EgressRouterError."""
        if not self._lease.held():
            return 0
        objects, decision = self._source.objects, self._decision()
        if self._done is not None and self._done[0] is objects and self._done[1] is decision:
            return 0
        written = self._make_nodes(objects)
        written += self._pools.give(objects, MOST_WRITES - written, self.loop.beat)
        written += self._write_statuses(objects, decision)
        self.writes += written
        if written < MOST_WRITES:
            self._done = (objects, decision)
        return written

    def _make_nodes(self, objects: ApiObjects) -> int:
        """Create the EgressNode of every Node that has none. It goes with the Node, by its ownerReference."""
        present = {node.name for node in objects.egress_nodes.values()}
        written = 0
        for node in objects.nodes.values():
            if node.name in present or written >= MOST_WRITES:
                continue
            owner = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
            body = {
                "apiVersion": API,
                "kind": "EgressNode",
                "metadata": {"name": node.name, "ownerReferences": [owner]},
                "spec": {},
            }
            try:
                self.loop.beat()
                self._source.egress_nodes.assume(self._client.request("POST", EGRESS_NODES, body=body))
            except ApiError as error:
                if error.code != CONFLICT:
                    raise
            written += 1
        return written

    def _write_statuses(self, objects: ApiObjects, decision: Decision) -> int:
        self._grouping.follow(objects)
        maker = StatusMaker(objects, decision, selected(self._grouping, objects))
        self.on_pools({pool.name: maker.pools.usage(pool) for pool in objects.pools.values()})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        written = 0
        for value in sorted(objects.egress_ips.values(), key=lambda value: value.name):
            if value.name not in decision.namespaces:
                # Newer than the decision, which will follow in a moment.
                continue
            before = json.loads(value.status) if value.status else {}
            after = with_times(maker.status(value), before, now)
            if keep_status(after) == keep_status(before):
                continue
            if written >= MOST_WRITES:
                return written
            self._patch(value, before, after)
            written += 1
        return written + self._pools.write_statuses(objects, maker, now, MOST_WRITES - written, self.loop.beat)

    def _patch(self, value: EgressIP, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        self.loop.beat()
        # A merge patch leaves out nothing by itself: fields that are no longer wanted must be null.
        gone = dict.fromkeys(before.keys() - after.keys())
        body = {"metadata": {"uid": value.uid}, "status": {**gone, **after}}
        try:
            path = f"{EGRESS_IPS}/{value.name}/status"
            self._source.egress_ips.assume(self._client.request("PATCH", path, body=body, content_type=MERGE_PATCH))
        except ApiError as error:
            if error.code in (NOT_FOUND, CONFLICT):
                return
            raise
        self._tell(value, before, after)

    def _tell(self, value: EgressIP, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        about = {"apiVersion": API, "kind": "EgressIP", "name": value.name, "uid": value.uid}
        for ip, old, new in moves(before, after):
            if old and new:
                self._events.write(about, "Moved", f"{ip} moved from node {old} to node {new}", "Assign")
            elif new:
                self._events.write(about, "Assigned", f"{ip} is on node {new}", "Assign")
            else:
                self._events.write(about, "Released", f"{ip} is no longer on node {old}", "Assign", warning=True)
        was, now = ready_of(before), ready_of(after)
        if (was.get("status"), was.get("reason")) != (now.get("status"), now.get("reason")):
            fine = now.get("reason") == "AllHeld"
            self._events.write(about, str(now["reason"]), str(now["message"]), "Report", warning=not fine)
