"""The controller's assignment, written down as one EgressIPAssignment for each address."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from egress_router.egressip.api import NO_STANDBYS, address_key, address_text
from egress_router.egressip.source.api_objects import (
    API,
    ASSIGNMENTS,
    STAYS,
    Assignment,
    assignment,
    assignment_name,
)
from egress_router.egressip.source.groups import with_given
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.errors import PlatformError, TryAgainError
from egress_router.kubernetes.client import JSON, MERGE_PATCH, ApiError, Client
from egress_router.kubernetes.lease import CONFLICT, NOT_FOUND, KubernetesLease

#: The annotation of the lease with the nodes that were offline for the assignment, as a JSON list.
OFFLINE = "egress-router.io/offline-nodes"


def as_it_is_known(entry: Assignment) -> dict[str, Any]:
    """Return the body of a DELETE that is refused when the object is another one by now, or was changed."""
    return {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": entry.uid, "resourceVersion": entry.version},
    }


class KubernetesRecord:
    """An AssignmentRecord. Every write carries the controller's epoch, which the server refuses when a later controller
    has written already (the schema's rule), and the version of the object that was decided from.
    """

    def __init__(self, client: Client, source: KubernetesSource, lease: KubernetesLease) -> None:
        self._client = client
        self._source = source
        self._lease = lease
        self._epoch: int | None = None
        self._epoch_lock = threading.Lock()
        #: Whether the server has written no standby although it was told of one.
        self._lacks_standbys = False

    def offline(self) -> tuple[str, ...]:
        """Return the nodes that were offline for what stands written."""
        try:
            names = json.loads(self._lease.annotations.get(OFFLINE, "[]"))
        except ValueError:
            return ()
        return tuple(sorted(str(name) for name in names)) if isinstance(names, list) else ()

    def epoch(self) -> int:
        """Return this controller's epoch: above that of every assignment when it began, and of every former holder of
        the lease; a lease that somebody deletes counts from 0 again.
        """
        # Asked by several threads: two answers would be two controllers to the server.
        with self._epoch_lock:
            if self._epoch is None:
                highest = max((entry.epoch for entry in self._source.assignments.objects().values()), default=0)
                self._epoch = max(self._lease.transitions, highest + 1)
            return self._epoch

    def write(
        self,
        assignment: Mapping[str, Collection[str]],
        offline: Iterable[str],
        standbys: Mapping[str, str] = NO_STANDBYS,
    ) -> None:
        """Write what differs. Raises ApiError, ApiUnavailable, or TryAgainError when the lease is lost meanwhile; what
        was written until then stands, and the next write goes on from it. Raises PlatformError when all is written but
        the standbys, for which the cluster's definition has no field.
        """
        self._lacks_standbys = False
        wanted = {ip: node for node, ips in assignment.items() for ip in ips}
        present = {entry.egress_ip: entry for entry in self._source.assignments.objects().values()}
        listed = {
            address_text(key)
            for value in with_given(self._source.egress_ips.objects(), self._source.assignments.objects()).values()
            for text in value.egress_ips
            if (key := address_key(text)) is not None
        }
        for ip, node in wanted.items():
            before = present.get(ip)
            if before is None:
                self._create(ip, node, standbys.get(ip))
            elif (before.node, before.standby) != (node, standbys.get(ip, "")):
                self._change(before, node, standbys.get(ip))
        for ip, before in present.items():
            if ip not in listed:
                self._delete(before)
            elif ip not in wanted and before.node:
                self._change(before, None, None)
        self._lease.annotations[OFFLINE] = json.dumps(sorted(offline))
        if self._lacks_standbys:
            raise PlatformError(
                "the cluster's definition of EgressIPAssignment has no spec.standby; apply the CRDs of this version, "
                "or leave --standby off"
            )

    def _written(self, raw: dict[str, Any], standby: str | None) -> None:
        """Take in what the server has written."""
        self._source.assignments.assume(raw)
        spec = raw.get("spec")
        if standby and isinstance(spec, Mapping) and spec.get("standby") != standby:
            self._lacks_standbys = True

    def _request(self, method: str, path: str, body: object, content_type: str = JSON) -> dict[str, Any]:
        if not self._lease.held():
            raise TryAgainError("the lease is lost; another controller may assign now")
        return self._client.request(method, path, body=body, content_type=content_type)

    def _create(self, ip: str, node: str, standby: str | None) -> None:
        body: dict[str, Any] = {
            "apiVersion": API,
            "kind": "EgressIPAssignment",
            "metadata": {"name": assignment_name(ip)},
            "spec": {
                "egressIP": ip,
                "node": node,
                **({"standby": standby} if standby else {}),
                "epoch": self.epoch(),
            },
        }
        self._written(self._request("POST", ASSIGNMENTS, body), standby)

    def _change(self, before: Assignment, node: str | None, standby: str | None) -> None:
        path = f"{ASSIGNMENTS}/{before.name}"
        version = before.version
        for attempt in (1, 2):
            # An address that had to go is balanced like others from now on.
            metadata: dict[str, Any] = {"resourceVersion": version}
            if node != before.node:
                metadata["annotations"] = {STAYS: None}
            # A server whose definition is of a former version has no such field, and need not hear of it.
            spare = {"standby": standby} if standby or before.standby else {}
            body = {"metadata": metadata, "spec": {"node": node, **spare, "epoch": self.epoch()}}
            try:
                raw = self._request("PATCH", path, body, MERGE_PATCH)
                self._written(raw, standby)
            except ApiError as error:
                if error.code != CONFLICT or attempt == 2:
                    raise
            else:
                return
            # Its holder may have written its status meanwhile; what was decided from must be the same.
            raw = self._request("GET", path, None)
            now = assignment(raw)
            if (now.node, now.standby, now.epoch) != (before.node, before.standby, before.epoch):
                self._source.assignments.assume(raw)
                raise TryAgainError(f"the assignment of {before.egress_ip} was changed by somebody else")
            version = now.version

    def _delete(self, before: Assignment) -> None:
        try:
            self._request("DELETE", f"{ASSIGNMENTS}/{before.name}", as_it_is_known(before))
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
        self._source.assignments.forget(before.uid)
