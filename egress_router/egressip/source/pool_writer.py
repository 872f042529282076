"""Gives EgressIPs their addresses of pools, and says how many are left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from egress_router.egressip.api import address_key
from egress_router.egressip.source.api_objects import API, ASSIGNMENTS, POOLS, EgressIP, assignment_name
from egress_router.egressip.source.groups import ApiObjects, canonical, with_given
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.kubernetes_record import as_it_is_known
from egress_router.egressip.source.kubernetes_status import StatusMaker, keep_status, with_times
from egress_router.egressip.source.pools import pools_of
from egress_router.errors import TryAgainError
from egress_router.kubernetes.client import MERGE_PATCH, ApiError, Client
from egress_router.kubernetes.events import Events
from egress_router.kubernetes.lease import CONFLICT, NOT_FOUND, KubernetesLease


class PoolWriter:
    """An address is given by making the EgressIPAssignment that bears its name, which can be made once: of two
    controllers, one of which was replaced and does not know it yet, the server lets one do it. It is given back when
    that object is deleted once its EgressIP is gone or names another pool: by KubernetesRecord where it is on a node,
    else here, since the record is only written when some node's addresses change.
    """

    def __init__(
        self,
        client: Client,
        source: KubernetesSource,
        lease: KubernetesLease,
        epoch: Callable[[], int],
        events: Events,
    ) -> None:
        self._client = client
        self._source = source
        self._lease = lease
        self._epoch = epoch
        self._events = events

    def give(self, objects: ApiObjects, most: int, beat: Callable[[], None]) -> int:
        """Take back what nobody has, then give what is missing, with up to ``most`` requests; return how many were
        given or taken back. Raises ApiError, ApiUnavailable, and TryAgainError when the lease is lost.
        """
        back = self._take_back(most, beat)
        given = self._give(objects, most - back, beat)
        if back or given:
            self._source.notice()
        return back + given

    def _take_back(self, most: int, beat: Callable[[], None]) -> int:
        """Delete the assignments that are of no EgressIP any more and on no node."""
        assignments = self._source.assignments.objects()
        nowhere = [entry for entry in assignments.values() if not entry.node]
        if not nowhere:
            return 0
        present = with_given(self._source.egress_ips.objects(), assignments)
        listed = {canonical(text) for value in present.values() for text in value.egress_ips}
        left = [entry for entry in nowhere if entry.egress_ip not in listed]
        for entry in left[:most]:
            beat()
            self._require_lease()
            try:
                self._client.request("DELETE", f"{ASSIGNMENTS}/{entry.name}", body=as_it_is_known(entry))
            except ApiError as error:
                if error.code not in (NOT_FOUND, CONFLICT):
                    raise
                if error.code == CONFLICT:
                    # The watch tells what it is by now.
                    continue
            self._source.assignments.forget(entry.uid)
        return len(left[:most])

    def _give(self, objects: ApiObjects, most: int, beat: Callable[[], None]) -> int:
        if not any(value.pool for value in objects.egress_ips.values()):
            return 0
        # The objects are those of the last decision; what was given since then counts.
        assignments = self._source.assignments.objects()
        present = with_given(self._source.egress_ips.objects(), assignments)
        pools = pools_of(replace(objects, egress_ips=present, assignments=assignments))
        waiting = [value for value in present.values() if value.pool]
        # What others have made meanwhile, and this watch has not heard of, costs a request too.
        given = tried = 0
        # The oldest first: who waits longest is served when an address becomes free.
        for value in sorted(waiting, key=lambda value: (value.created, value.name)):
            before = json.loads(value.status).get("egressIPs") if value.status else ()
            for version in pools.missing(value):
                while tried < most:
                    ip = pools.choose(value, version, before if isinstance(before, list) else ())
                    key = None if ip is None else address_key(ip)
                    if ip is None or key is None:
                        break
                    pools.taken.add(key)
                    beat()
                    tried += 1
                    if self._make(value, ip):
                        given += 1
                        break
        return given

    def _require_lease(self) -> None:
        if not self._lease.held():
            raise TryAgainError("the lease is lost; another controller may give addresses now")

    def _make(self, value: EgressIP, ip: str) -> bool:
        """Return whether the address is given; not where somebody else has it meanwhile."""
        self._require_lease()
        body: dict[str, Any] = {
            "apiVersion": API,
            "kind": "EgressIPAssignment",
            "metadata": {"name": assignment_name(ip)},
            "spec": {
                "egressIP": ip,
                "epoch": self._epoch(),
                "givenTo": {"egressIP": value.name, "uid": value.uid, "pool": value.pool},
            },
        }
        try:
            self._source.assignments.assume(self._client.request("POST", ASSIGNMENTS, body=body))
        except ApiError as error:
            if error.code != CONFLICT:
                raise
            return False
        about = {"apiVersion": API, "kind": "EgressIP", "name": value.name, "uid": value.uid}
        self._events.write(about, "Given", f"{ip} of pool {value.pool}", "Give")
        return True

    def write_statuses(
        self, objects: ApiObjects, maker: StatusMaker, now: str, most: int, beat: Callable[[], None]
    ) -> int:
        """Write the status of every pool that differs, up to ``most``; return how many. Raises as ``give``."""
        written = 0
        for pool in sorted(objects.pools.values(), key=lambda pool: pool.name):
            before = json.loads(pool.status) if pool.status else {}
            after = with_times(maker.pool_status(pool), before, now)
            if keep_status(after) == keep_status(before) or written >= most:
                continue
            beat()
            body = {"metadata": {"uid": pool.uid}, "status": after}
            try:
                answer = self._client.request(
                    "PATCH", f"{POOLS}/{pool.name}/status", body=body, content_type=MERGE_PATCH
                )
            except ApiError as error:
                if error.code not in (NOT_FOUND, CONFLICT):
                    raise
            else:
                if self._source.pools is not None:
                    self._source.pools.assume(answer)
            written += 1
        return written
