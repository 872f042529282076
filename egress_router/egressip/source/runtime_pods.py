"""A node's own pods: what its container runtime says of them, beside what the API says.

The runtime knows a pod's address before any of its containers runs, and when its last process has ended; the API shows
both later, and an ended pod's address also when it is another pod's. The runtime does not tell of labels that change.
So names and labels are the API's where it knows the pod, addresses those of both; and where they contradict each other
about whose an address is, it is the one's whose sandbox has it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from egress_router.egressip.api import address_key, address_text
from egress_router.egressip.source.api_objects import ApiPod
from egress_router.kubernetes.nri import Sandbox

#: A pod that starts waits so long until its rules are in place; the runtime itself gives up after 2 s. Seconds.
DEADLINE = 1.0
#: So long the runtime's word that a pod has started is enough without the API's, and so long what was known of pods
#: stays after the runtime was heard last; seconds.
GRACE = 30.0
#: The longest time between two requests for the whole list, while the API does not know a sandbox; seconds.
LIST_AGAIN_MOST = 600.0


@dataclass(slots=True)
class _Known:
    pod: ApiPod
    #: When the runtime said that it starts; None where it was found in the list.
    started: float | None
    #: Whether the API has known the pod.
    was_in_api: bool = False


def together(api: Mapping[str, ApiPod], live: Collection[tuple[ApiPod, bool]]) -> dict[str, ApiPod]:
    """Return the pods by uid, from those of the API and those whose sandboxes live. Pure.

    With each of the latter comes whether that is sure: then nobody else has its addresses by what the API alone says,
    or by a sandbox of which it is not sure. An address that two have for sure is both's.
    """
    found = dict(api)
    if not live:
        return found
    owners: dict[str, set[str]] = {}
    sandboxes: dict[str, list[ApiPod]] = {}
    for pod, sure in live:
        sandboxes.setdefault(pod.uid, []).append(pod)
        if sure:
            for ip in pod.ips:
                owners.setdefault(ip, set()).add(pod.uid)
    for uid in api.keys() | sandboxes.keys():
        own = sandboxes.get(uid, [])
        known = api.get(uid) or own[-1]
        listed = (ip for pod in (*filter(None, [api.get(uid)]), *own) for ip in pod.ips)
        ips = tuple(dict.fromkeys(ip for ip in listed if ip not in owners or uid in owners[ip]))
        if not ips:
            found.pop(uid, None)
        else:
            found[uid] = known if ips == known.ips else replace(known, ips=ips)
    return found


class RuntimePods:
    """A Listener of the runtime, for one reader in another thread, who is told by ``notice`` that there is news."""

    def __init__(
        self,
        node: str,
        notice: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        self._node = node
        self._notice = notice
        self._clock = clock
        self._deadline = deadline
        self._changed = threading.Condition()
        self._sandboxes: dict[str, _Known] = {}
        self._connected = False
        self._heard = clock()
        #: Counts the changes: of all, of those that the reader has taken in, of those that are in place.
        self._news, self._read, self._in_place = 0, 0, 0
        self._waiting: ApiPod | None = None
        self._everywhere = True
        #: How long the next pod waits. Each that waits in vain halves it, until something is put in place: so all
        #: together wait for an agent that hangs twice as long as one, and on a node that is busy most wait enough.
        self._patience = deadline
        self._api: Mapping[str, ApiPod] = {}
        self._told: dict[str, ApiPod] = {}
        self._told_at = -1
        self._list_again_at: float | None = None
        self._list_again_pause = GRACE

    # The runtime's thread

    def listed(self, sandboxes: Collection[Sandbox]) -> None:
        """Take in all sandboxes that live."""
        with self._changed:
            before = self._sandboxes
            self._sandboxes = {}
            for sandbox in sandboxes:
                pod = self._pod(sandbox)
                if pod.ips:
                    known = before.get(sandbox.id)
                    self._sandboxes[sandbox.id] = known if known and known.pod == pod else _Known(pod, None)
            self._connected = True
            self._note()

    def started(self, sandbox: Sandbox) -> bool:
        """Take in a new sandbox, and wait until what it needs is in place, not for long; return whether it is."""
        pod = self._pod(sandbox)
        if not pod.ips:
            return True
        with self._changed:
            self._sandboxes[sandbox.id] = _Known(pod, self._clock())
            # Before the reader is told: it asks for what is urgent without the lock.
            self._waiting = pod
            mine = self._note()
            if not self._changed.wait_for(lambda: self._in_place >= mine, self._patience):
                self._patience /= 2
            self._waiting = None
            return self._in_place >= mine and self._everywhere

    def stopped(self, sandbox: str) -> None:
        """Forget a sandbox."""
        with self._changed:
            if self._sandboxes.pop(sandbox, None) is not None:
                self._note()

    def lost(self) -> None:
        """Believe nothing more than the API; forget all when the runtime does not come back."""
        with self._changed:
            if self._connected:
                self._connected, self._heard = False, self._clock()
                self._note()
            elif self._sandboxes and self._clock() - self._heard > GRACE:
                self._sandboxes.clear()
                self._note()

    def turn(self) -> bool:
        """Return whether all are to be listed anew: the API does not know a sandbox, so its end may have been missed.
        The longer that goes on, the rarer.
        """
        with self._changed:
            now = self._clock()
            if not self._connected or all(self._is_sure(known, now) for known in self._sandboxes.values()):
                self._list_again_at, self._list_again_pause = None, GRACE
                return False
            if self._list_again_at is None:
                self._list_again_at = now + self._list_again_pause
            if now < self._list_again_at:
                return False
            self._list_again_pause = min(2 * self._list_again_pause, LIST_AGAIN_MOST)
            self._list_again_at = now + self._list_again_pause
            return True

    def _pod(self, sandbox: Sandbox) -> ApiPod:
        keys = map(address_key, sandbox.ips)
        ips = tuple(address_text(key) for key in keys if key is not None)
        return ApiPod(sandbox.uid, sandbox.namespace, sandbox.name, self._node, ips, sandbox.labels)

    def _note(self) -> int:
        """Tell of a change; return its number. The lock is held."""
        self._news += 1
        self._notice()
        return self._news

    # The reader's thread

    @property
    def waiting(self) -> ApiPod | None:
        """The pod whose start waits for what has changed to be in place, if there is one."""
        return self._waiting

    def changes(self, api: Mapping[str, ApiPod]) -> dict[str, ApiPod | None]:
        """Return which pods of the node are others than the last time, by uid; None: gone. ``api``: all that the API
        knows, the same mapping when nothing has changed.
        """
        with self._changed:
            self._read = self._news
            if self._told_at == self._news and self._api is api:
                return {}
            self._api, self._told_at = api, self._news
            now = self._clock()
            live = [(known.pod, self._is_sure(known, now)) for known in self._sandboxes.values()]
        pods = together(api, live)
        told, self._told = self._told, pods
        changes: dict[str, ApiPod | None] = {uid: pod for uid, pod in pods.items() if told.get(uid) != pod}
        changes.update(dict.fromkeys(told.keys() - pods.keys()))
        return changes

    def in_place(self, *, everywhere: bool = True) -> None:
        """Let pods go on that have waited for what was read last. ``everywhere``: other nodes have it in place, too."""
        with self._changed:
            self._everywhere = everywhere
            self._in_place, self._patience = self._read, self._deadline
            self._changed.notify_all()

    def _is_sure(self, known: _Known, now: float) -> bool:
        """Return whether a sandbox is its pod's: while the runtime is heard, and the API knows the pod or cannot know
        it yet. The uid of a static pod is a checksum; its image in the API has its name, and another uid.
        """
        pod = known.pod
        if not self._connected:
            return False
        if pod.uid in self._api:
            known.was_in_api = True
            return True
        if "-" not in pod.uid and any(
            (image.namespace, image.name) == (pod.namespace, pod.name) for image in self._api.values()
        ):
            return True
        return not known.was_in_api and known.started is not None and now - known.started < GRACE
