"""Pods of other nodes that start this moment: their nodes' agents tell of them before the API does.

A node's word about its own pods is good for a few seconds, until the API tells of the pod, or of another one with the
address; it counts for no address that the API shows on another node. Of an address that the API still shows as another
pod's of the same node it counts beside that one, and in its place only when it was signed: anybody may speak with a
node's address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from egress_router.egressip.api import Pod, address_key, address_text
from egress_router.egressip.source.api_objects import ApiPod

#: How long the word counts; the API is usually some hundredths of a second behind. Seconds.
COUNTS = 10.0
#: No more pods than this are taken in at a time.
MOST = 4096
_Pods = dict[tuple[str, str], Pod]


def words(group: str, uid: str) -> str:
    """Return what a node says of a pod: the EgressIP that it belongs to, and its uid."""
    return f"{group} {uid}"


@dataclass(frozen=True, slots=True)
class _Told:
    node: str
    group: str
    uid: str
    until: float
    #: The pods that the API showed with the address when this was said: they have ended.
    former: frozenset[str]
    #: Whether that was surely the node.
    signed: bool


class ToldPods:
    """What other nodes have said of their pods, by address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, _Told] = {}

    def take(
        self,
        node: str,
        pods: Mapping[str, str],
        groups: Collection[str],
        known_pods: Mapping[str, ApiPod],
        *,
        signed: bool,
    ) -> bool:
        """Take in what a node says of its pods (by address), where the EgressIP is one of ``groups``; return whether
        any of it is new. ``known_pods``: what the API shows, by uid. ``signed``: it is surely that node.
        """
        fresh: dict[str, tuple[str, str]] = {}
        for text, said in pods.items():
            key = address_key(text)
            group, _, uid = said.partition(" ")
            if key is None or group not in groups or not uid:
                continue
            ip = address_text(key)
            known = self._told.get(ip)
            if known is not None and (known.node, known.group, known.uid) == (node, group, uid):
                # It counts from when it was said first.
                continue
            if known is not None or len(self._told) + len(fresh) < MOST:
                fresh[ip] = (group, uid)
        if not fresh:
            return False
        former: dict[str, set[str]] = {}
        for other, pod in known_pods.items():
            for ip in pod.ips:
                if ip in fresh:
                    former.setdefault(ip, set()).add(other)
        until = self._clock() + COUNTS
        for ip, (group, uid) in fresh.items():
            self._told[ip] = _Told(node, group, uid, until, frozenset(former.get(ip, ())), signed)
        return True

    def added(self, pods: _Pods, known: Mapping[str, ApiPod]) -> _Pods:
        """Return the pods with those that were told of, and without what the API (``known``, by uid) still shows of an
        address that the same node surely has given to another pod; the same mapping when none counts.
        """
        if not self._told:
            return pods
        now = self._clock()
        owners: dict[str, list[ApiPod]] = {}
        for pod in known.values():
            for ip in pod.ips:
                if ip in self._told:
                    owners.setdefault(ip, []).append(pod)
        counting: dict[str, _Told] = {}
        for ip, told in list(self._told.items()):
            others = owners.get(ip, ())
            if now >= told.until or told.uid in known or any(pod.uid not in told.former for pod in others):
                del self._told[ip]
            elif all(pod.node == told.node for pod in others):
                counting[ip] = told
        if not counting:
            return pods
        stale = {ip for ip in counting.keys() & owners.keys() if counting[ip].signed}
        found = {key: pod for key, pod in pods.items() if stale.isdisjoint(pod.ips)} if stale else dict(pods)
        for ip, told in counting.items():
            name = f"{told.uid} {ip}"
            found[told.group, name] = Pod(told.group, name, told.node, (ip,))
        return found
