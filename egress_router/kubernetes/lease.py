"""Leader election by a Lease (coordination.k8s.io/v1), judged by the process' own monotonic clock.

Times written in the object are never compared with a clock here: a lease has expired when it was not seen to change for
its duration, and is held until the last renewal that succeeded, plus a deadline that is shorter than that.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from egress_router.errors import EgressRouterError
from egress_router.kubernetes.client import ApiError, Client
from egress_router.kubernetes.thread import Heartbeat, StartThread, pause

NOT_FOUND, CONFLICT = 404, 409
#: Who holds it was not found out yet.
NOBODY_KNOWN = "nobody known yet"
#: What requests may take beyond the lease's duration before the thread that renews counts as stuck; seconds.
STUCK = 60.0


def micro_time() -> str:
    """Return the present time as a MicroTime: with exactly six digits of a second, or the server refuses it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class KubernetesLease:
    """Held by at most one process at a time. Its requests go over a client of its own, so that nothing delays them.

    ``duration``: others wait for so long without a renewal; ``deadline``: after so long without one this process does
    not count as the holder any more; ``retry``: between renewals, and between attempts. All in seconds.
    """

    def __init__(
        self,
        client: Client,
        start: StartThread,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        deadline: float = 10.0,
        retry: float = 2.0,
        log: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._client = client
        self._start = start
        self._namespace = namespace
        self._name = name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self.identity = identity
        self._duration, self._deadline, self._retry = duration, deadline, retry
        self._log = log
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lease: dict[str, Any] = {}
        self._renewed = float("-inf")
        self._seen = ""
        self._seen_at = 0.0
        self._next = 0.0
        self._holder = NOBODY_KNOWN
        #: Whether this process had the lease and has it no more; ``on_lost`` is called then, from a thread.
        self.lost = False
        self.on_lost: Callable[[], None] = lambda: None
        #: How often the lease has changed hands, as of when this process got it.
        self.transitions = 0
        #: Kept with the lease from one holder to the next; written with the next renewal.
        self.annotations: dict[str, str] = {}

    def acquire(self) -> bool:
        """Try to get it, unless the last attempt is less than ``retry`` ago; return whether this process has it."""
        if self.held():
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._retry * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, no secret
        try:
            return self._try(now)
        except EgressRouterError as error:
            self._holder = f"nobody known ({error})"
            return False

    def _try(self, now: float) -> bool:
        try:
            lease = self._client.request("GET", f"{self._path}/{self._name}", timeout=self._timeout())
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            lease = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": {"leaseTransitions": -1}}
        spec: Mapping[str, Any] = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        self._holder = holder or NOBODY_KNOWN
        version = str(lease["metadata"].get("resourceVersion") or "")
        if version != self._seen:
            self._seen, self._seen_at = version, now
        if holder and holder != self.identity:
            written = spec.get("leaseDurationSeconds")
            duration = max(self._duration, float(written) if isinstance(written, int) else 0.0)
            if now - self._seen_at < duration:
                return False
        transitions = spec.get("leaseTransitions")
        begun = time.monotonic()
        lease["spec"] = {
            **spec,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self._duration),
            "acquireTime": micro_time(),
            "renewTime": micro_time(),
            "leaseTransitions": (transitions if isinstance(transitions, int) else 0) + 1,
        }
        try:
            if version:
                lease = self._client.request("PUT", f"{self._path}/{self._name}", body=lease, timeout=self._timeout())
            else:
                lease = self._client.request("POST", self._path, body=lease, timeout=self._timeout())
        except ApiError as error:
            if error.code == CONFLICT:
                return False
            raise
        with self._lock:
            self._lease, self._renewed = lease, begun
        self.transitions = int(lease["spec"].get("leaseTransitions") or 0)
        self.annotations = dict(lease["metadata"].get("annotations") or {})
        self._holder = self.identity
        self._stopping.clear()
        self._thread = self._start("lease", self._renew, limit=3 * self._duration + STUCK)
        return True

    def _timeout(self) -> float:
        return max(0.5, min(self._retry * 2, self._deadline / 2))

    def held(self) -> bool:
        """Return whether this process has it, as of now, whatever the server may answer later."""
        with self._lock:
            return bool(self._lease) and time.monotonic() < self._renewed + self._deadline

    def holder(self) -> str:
        """Return who has it, as of the last look."""
        return self._holder

    def release(self) -> None:
        """Give it back, so that another process need not wait; a server that cannot be reached is no fault."""
        held = self.held()
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(self._timeout() + 1)
            self._thread = None
        with self._lock:
            lease, self._lease = self._lease, {}
        if not held:
            return
        lease["spec"] = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time()}
        try:
            self._client.request("PUT", f"{self._path}/{self._name}", body=lease, timeout=self._timeout())
        except EgressRouterError as error:
            self._log(f"the lease was not given back: {error}")

    def _renew(self, beat: Heartbeat) -> None:
        """Renew until the lease is released or lost; in a thread."""
        wait = self._retry
        while not pause(self._stopping, wait, beat):
            wait = self._retry
            begun = time.monotonic()
            with self._lock:
                lease = {**self._lease}
                if not lease or begun >= self._renewed + self._duration:
                    self._lease = {}
            if not lease or not self._lease:
                self._lose("it could not be renewed in time")
                return
            metadata = {**lease["metadata"], "annotations": {**self.annotations}}
            body = {**lease, "metadata": metadata, "spec": {**lease["spec"], "renewTime": micro_time()}}
            try:
                renewed = self._client.request("PUT", f"{self._path}/{self._name}", body=body, timeout=self._timeout())
            except ApiError as error:
                if error.code in (CONFLICT, NOT_FOUND) and not self._still_ours():
                    self._lose(f"{self._holder} has it")
                    return
                wait = min(self._retry, 0.5)
            except EgressRouterError:
                wait = min(self._retry, 0.5)
            else:
                with self._lock:
                    if self._lease:
                        self._lease, self._renewed = renewed, begun

    def _still_ours(self) -> bool:
        """Look again after a conflict: another field may have been changed, or another process has taken it."""
        try:
            lease = self._client.request("GET", f"{self._path}/{self._name}", timeout=self._timeout())
        except ApiError as error:
            if error.code != NOT_FOUND:
                return True
            lease = {}
        except EgressRouterError:
            return True
        ours = (lease.get("spec") or {}).get("holderIdentity") == self.identity
        with self._lock:
            self._lease = lease if ours else {}
        if not ours:
            self._holder = str((lease.get("spec") or {}).get("holderIdentity") or NOBODY_KNOWN)
        return ours

    def _lose(self, why: str) -> None:
        if not self._stopping.is_set():
            self.lost = True
            self._log(f"the lease is lost: {why}")
            self.on_lost()
