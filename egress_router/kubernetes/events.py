"""Events (events.k8s.io/v1) about objects, as few as client-go would write."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from egress_router.errors import EgressRouterError, printable
from egress_router.kubernetes.client import Client
from egress_router.kubernetes.lease import micro_time

#: Of one object and reason: so many at once, then one more in so many seconds.
BURST, REFILL = 25, 300.0
#: The longest note that a server takes.
NOTE = 1024


class Events:
    """Writes events of one controller. What cannot be written is logged: an event is never worth a failure."""

    def __init__(
        self, client: Client, controller: str, instance: str, log: Callable[[str], None], namespace: str = "default"
    ) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._log = log
        self._namespace = namespace
        self._left: dict[tuple[str, str], tuple[float, float]] = {}

    def write(self, regarding: dict[str, str], reason: str, note: str, action: str, *, warning: bool = False) -> bool:
        """Write one about an object (apiVersion, kind, name, uid); return whether it was written."""
        if not self._allowed(regarding["uid"], reason, time.monotonic()):
            return False
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{regarding['name']}.{secrets.token_hex(8)}", "namespace": self._namespace},
            "eventTime": micro_time(),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "type": "Warning" if warning else "Normal",
            "note": printable(note, NOTE - 1),
            "regarding": regarding,
        }
        try:
            self._client.request("POST", f"/apis/events.k8s.io/v1/namespaces/{self._namespace}/events", body=body)
        except EgressRouterError as error:
            self._log(f"an event was not written: {error}")
            return False
        return True

    def _allowed(self, uid: str, reason: str, now: float) -> bool:
        left, at = self._left.get((uid, reason), (float(BURST), now))
        left = min(float(BURST), left + (now - at) / REFILL)
        self._left[uid, reason] = (left - 1 if left >= 1 else left, now)
        return left >= 1
