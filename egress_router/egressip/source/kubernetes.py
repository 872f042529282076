"""The Kubernetes API as the source of the cluster's objects: for a node's agent, or for the controller.

An agent's own pods are also those that its container runtime tells of, see ``runtime_pods``.

What is watched: EgressIP, EgressNode, EgressIPAssignment, and the labels of namespaces; by an agent the pods of its own
node, and those of the namespaces whose addresses it holds or takes over; by the controller all pods, and the labels of
nodes.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import replace
from typing import Any, TypeVar, cast

from egress_router.daemon.threads import Threads
from egress_router.egressip.api import ClusterState, NetNamespace
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.api_objects import (
    ASSIGNMENTS,
    EGRESS_IPS,
    EGRESS_NODES,
    POOLS,
    RUNNING,
    ApiPod,
    Assignment,
    EgressIP,
    EgressIPPool,
    EgressNode,
    Labelled,
    LabelledParts,
    PodParts,
    Unusable,
)
from egress_router.egressip.source.groups import (
    UNSELECTED,
    ApiObjects,
    Grouping,
    LocalNode,
    canonical,
    cluster_state,
    with_given,
    without_assigned,
)
from egress_router.egressip.source.runtime_pods import RuntimePods
from egress_router.egressip.source.told_pods import ToldPods
from egress_router.errors import Problem
from egress_router.kubernetes.client import Client
from egress_router.kubernetes.informer import Informer, Resource
from egress_router.kubernetes.thread import StartThread

T = TypeVar("T")

PODS = "/api/v1/pods"
NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
#: At the start, `read` waits so long for what is usually there in a tenth of it; seconds.
PATIENCE = 2.0
_NO_NODES: Mapping[str, Labelled] = {}
_NO_POOLS: Mapping[str, EgressIPPool] = {}
#: A node that holds addresses of more namespaces than this watches the pods of all namespaces with one watch.
MOST_WATCHES = 32


class KubernetesSource:
    """A ClusterSource. ``read`` raises OSError until every object was seen once; after that the last picture stays,
    however long the server is away, and what is wrong is among the problems.
    """

    def __init__(
        self,
        client: Client,
        start: StartThread,
        me: LocalNode | None,
        log: Callable[[str], None] = lambda _text: None,
        status_of: Callable[[Mapping[str, Any]], str] = lambda _status: "",
    ) -> None:
        """``start`` starts the threads of the watches. ``me`` is an agent's own node, None for the controller.
        ``status_of``: see ``api_objects.egress_ip``.
        """
        self._client = client
        self._start = start
        self._started: Counter[str] = Counter()
        self._me = me
        self._log = log
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        #: Is to be told what the node's container runtime tells; None for the controller.
        self.runtime = RuntimePods(me.name, self._changed_urgently) if me is not None else None
        self._lock = threading.Lock()
        self._closed = False
        #: Whether somebody was woken who has not called ``read`` since.
        self._noticed = False
        self._grouping = Grouping()
        self._unusable: dict[tuple[str, str], tuple[Problem, ...]] = {}
        self._known_pods: dict[str, ApiPod] = {}
        self._made = ClusterState()
        self._made_of: tuple[object, ...] = (None,) * 4
        self._first = True
        self._granted: set[str] = set()
        self._grouped: tuple[object, set[str], Mapping[str, NetNamespace]] = (None, set(), {})
        self._objects = ApiObjects()
        self._given: tuple[object, object, Mapping[str, EgressIP]] = (None, None, {})
        own = f"spec.nodeName={me.name},{RUNNING}" if me else RUNNING
        self.egress_ips: Informer[EgressIP] = self._follow_last_good(
            EGRESS_IPS, "EgressIP", lambda raw: api_objects.egress_ip(raw, status_of)
        )
        self.egress_nodes: Informer[EgressNode] = self._follow_last_good(
            EGRESS_NODES, "EgressNode", api_objects.egress_node
        )
        self.assignments: Informer[Assignment] = self._follow_last_good(
            ASSIGNMENTS, "EgressIPAssignment", api_objects.assignment
        )
        self._namespaces: Informer[Labelled] = self._follow(
            Resource(NAMESPACES, metadata_only=True), api_objects.labelled, parts=LabelledParts
        )
        self._pods: Informer[ApiPod] = self._follow(Resource(PODS, own), api_objects.pod, parts=PodParts)
        self._nodes: Informer[Labelled] | None = None
        #: Where their kind is not there, an older version's, no pool is known.
        self.pools: Informer[EgressIPPool] | None = None
        if me is None:
            self._nodes = self._follow(Resource(NODES, metadata_only=True), api_objects.labelled, parts=LabelledParts)
            self.pools = self._follow_last_good(
                POOLS, "EgressIPPool", lambda raw: api_objects.egress_ip_pool(raw, status_of)
            )
        #: Gives the nodes that were offline for the recorded assignment; set for the controller.
        self.offline: Callable[[], tuple[str, ...]] | None = None
        #: Watches of the pods of namespaces on other nodes, by namespace; "" is all of them.
        self._remote: dict[str, Informer[ApiPod]] = {}
        self._ended: list[Informer[ApiPod]] = []
        #: What other nodes tell of their pods, and whether any of it was not read yet.
        self._told = ToldPods()
        self._told_news = False

    def _follow(
        self,
        resource: Resource,
        convert: Callable[[Mapping[str, Any]], T | None],
        gone: Callable[[str], None] = lambda _uid: None,
        parts: type[Any] | None = None,
    ) -> Informer[T]:
        informer = Informer(self._client, resource, convert, self._changed, self._log, gone=gone, parts=parts)
        self._started[resource.path] += 1
        number = self._started[resource.path]
        # A watch that was stopped may still be ending when the same is followed again: two threads, two names.
        informer.start(self._start, f"watch {resource.path}" + (f" ({number})" if number > 1 else ""))
        return informer

    def _follow_last_good(self, path: str, kind: str, convert: Callable[[Mapping[str, Any]], T]) -> Informer[T]:
        """Follow objects of which the last good value stays when they cannot be used any more."""
        good: dict[str, T] = {}

        def converted(raw: Mapping[str, Any]) -> T | None:
            uid = str(raw["metadata"]["uid"])
            try:
                value = convert(raw)
            except Unusable as error:
                with self._lock:
                    self._unusable[kind, uid] = error.problems
                return good.get(uid, cast("T | None", error.instead))
            with self._lock:
                self._unusable.pop((kind, uid), None)
            good[uid] = value
            return value

        def gone(uid: str) -> None:
            good.pop(uid, None)
            with self._lock:
                known = self._unusable.pop((kind, uid), None)
            if known:
                self._changed()

        return self._follow(Resource(path), converted, gone)

    def _changed(self) -> None:
        """Called from the threads of the watches. Wakes nobody for what the next ``read`` takes in anyway."""
        with self._lock:
            if not self._noticed:
                self._wake()

    def _changed_urgently(self) -> None:
        """The same for what is not to wait until somebody reads who has taken his time so far."""
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        """Have ``fileno`` be readable; the lock is held."""
        if not self._closed:
            self._noticed = True
            os.eventfd_write(self._event, 1)

    def notice(self) -> None:
        """Have ``read`` called: somebody has taken in what the server answered, see Informer.assume."""
        self._changed()

    def _fixed(self) -> list[Informer[Any]]:
        """Return the watches that are there from the start."""
        fixed: list[Informer[Any]] = [self.egress_ips, self.egress_nodes, self.assignments]
        fixed += [self._namespaces, self._pods]
        return [*fixed, *([self._nodes] if self._nodes else [])]

    def _informers(self) -> list[Informer[Any]]:
        return [*self._fixed(), *([self.pools] if self.pools else []), *self._remote.values()]

    # ClusterSource

    def follow(self, threads: Threads) -> None:
        """Do nothing: informers follow from the beginning, in threads of their own."""

    def read(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        """Return the state now, and what is wrong. Raises OSError until all objects were seen, for which the first
        calls wait a little.
        """
        end = time.monotonic() + (PATIENCE if self._first else 0.0)
        while True:
            try:
                return self._read()
            except OSError:
                if time.monotonic() >= end:
                    raise
                self.wait(end - time.monotonic())

    def _read(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        with self._lock:
            # Before anything is taken in: what comes from here on wakes again.
            self._noticed = False
        missing = [informer for informer in self._fixed() if not informer.synced]
        if missing:
            why = next((informer.trouble for informer in missing if informer.trouble), "")
            raise OSError(errno.EAGAIN, why or "the API server has not sent all objects yet")
        changes = self._pod_changes()
        self._objects = objects = self._gather(changes)
        self._told_news = False
        pods = self._told.added(self._grouping.follow(objects, changes), self._known_pods)
        made_of = (objects.egress_ips, objects.egress_nodes, objects.assignments, objects.nodes)
        if all(one is other for one, other in zip(made_of, self._made_of, strict=True)):
            state = replace(self._made, pods=pods)
        else:
            state = cluster_state(objects, pods, self._me)
        self._made, self._made_of = state, made_of
        if self.offline is not None:
            state = replace(state, assigned_without=self.offline())
        if self._me is not None:
            state = self._only_with_pods(state, self._me.name)
        self._first = False
        return state, self._problems()

    def _gather(self, changes: Mapping[str, ApiPod | None]) -> ApiObjects:
        # The controller's writer looks at them in a thread of its own.
        pods: Mapping[str, ApiPod] = self._known_pods
        if self._me is None:
            pods = dict(self._known_pods) if changes else self._objects.pods
        return ApiObjects(
            self._with_given(),
            self.egress_nodes.objects(),
            self.assignments.objects(),
            self._namespaces.objects(),
            self._nodes.objects() if self._nodes else _NO_NODES,
            pods,
            self.pools.objects() if self.pools else _NO_POOLS,
        )

    def _with_given(self) -> Mapping[str, EgressIP]:
        """Return the EgressIPs with what was given to them; the same mapping as before when nothing has changed."""
        made_of = (self.egress_ips.objects(), self.assignments.objects())
        if self._given[0] is not made_of[0] or self._given[1] is not made_of[1]:
            made = with_given(*made_of)
            # Assignments change more often than who has which address.
            self._given = (*made_of, self._given[2] if made == self._given[2] else made)
        return self._given[2]

    def _pod_changes(self) -> dict[str, ApiPod | None]:
        """Take in what has changed of the pods of all watches."""
        changes: dict[str, ApiPod | None] = {}
        watches = (self._pods, *self._remote.values())
        for ended in self._ended:
            # Another watch may have them as well: one of all namespaces in place of many, or the other way round.
            # What it has left out since it was asked last, too; the objects first: its thread may still be ending.
            for uid in {*ended.objects(), *ended.take_changes()}:
                changes[uid] = next((pod for watch in watches if (pod := watch.objects().get(uid)) is not None), None)
        self._ended.clear()
        for watch in watches:
            taken = watch.take_changes()
            if watch is self._pods and self.runtime is not None:
                taken = self.runtime.changes(watch.objects())
            changes.update(taken)
        for uid, pod in changes.items():
            if pod is None:
                self._known_pods.pop(uid, None)
            else:
                self._known_pods[uid] = pod
        return changes

    def _only_with_pods(self, state: ClusterState, me: str) -> ClusterState:
        """Follow the pods that this node translates, and leave out new addresses whose pods are not all known yet: a
        node that says that it has an address must translate whoever is sent to it. What it had before stays.
        """
        given = {*state.assignment.get(me, ()), *map(canonical, state.nodes[me].egress_ips)}
        # Who takes an address over has to know at once whose connections may go on with it.
        spare = {ip for ip, node in state.standbys.items() if node == me}
        groups = self._groups_with(given | spare, state.namespaces)
        self._watch_namespaces(self._grouping.namespaces_of(groups) if groups else frozenset())
        late = {name for name, informer in self._remote.items() if not informer.synced}
        waiting = {
            canonical(ip)
            for name, space in groups.items()
            if late and ("" in late or not self._grouping.namespaces_of({name}).isdisjoint(late))
            for ip in space.egress_ips
        } & given
        if waiting and self._first:
            # An agent that starts again may have these addresses already, and must not lay them down.
            raise OSError(errno.EAGAIN, "the API server has not sent the pods of all nodes yet")
        self._granted = (self._granted & given) | (given - waiting)
        return without_assigned(state, me, waiting - self._granted) if waiting - self._granted else state

    def _groups_with(self, given: set[str], namespaces: Mapping[str, NetNamespace]) -> Mapping[str, NetNamespace]:
        """Return the groups that list one of these addresses; remembered until groups or addresses change."""
        if self._grouped[0] is not namespaces or self._grouped[1] != given:
            found = {n: s for n, s in namespaces.items() if not given.isdisjoint(map(canonical, s.egress_ips))}
            self._grouped = (namespaces, given, found)
        return self._grouped[2]

    def _watch_namespaces(self, wanted: Set[str]) -> None:
        """Watch the pods of these namespaces on other nodes; a replaced one ends when the new ones have all."""
        assert self._me is not None  # noqa: S101 - only agents do this
        names = {""} if len(wanted) > MOST_WATCHES else wanted
        for name in names - self._remote.keys():
            path = f"{NAMESPACES}/{name}/pods" if name else PODS
            others = f"spec.nodeName!={self._me.name},{RUNNING}"
            self._remote[name] = self._follow(Resource(path, others), api_objects.pod, parts=PodParts)
        if any(not self._remote[name].synced for name in names):
            return
        for name in self._remote.keys() - names:
            ended = self._remote.pop(name)
            ended.stop()
            self._ended.append(ended)

    def _problems(self) -> tuple[Problem, ...]:
        with self._lock:
            found = [problem for problems in self._unusable.values() for problem in problems]
        away = sorted({informer.trouble for informer in self._informers() if informer.trouble})
        found += [Problem("the API", None, "", f"cannot be followed: {why}; what was known stays") for why in away]
        return tuple(found)

    def fileno(self) -> int:
        """Return a descriptor that is readable when something changed."""
        return self._event

    def wait(self, timeout: float) -> bool:
        """Wait for a change. Whoever was told of one calls ``read``; until then nobody is told of the next ones."""
        if not select.select([self._event], [], [], timeout)[0]:
            return False
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return False
        return True

    takes_pods = True

    def urgent(self) -> bool:
        """Return whether a container runtime, here or on another node, waits with a pod for what ``read`` gives now to
        be in place.
        """
        return self._told_news or (self.runtime is not None and self.runtime.waiting is not None)

    def waiting(self) -> tuple[str, Collection[str]]:
        """Return uid and addresses of the pod with which the container runtime waits."""
        pod = self.runtime.waiting if self.runtime is not None else None
        return ("", ()) if pod is None else (pod.uid, pod.ips)

    def pods_told(self, node: str, pods: Mapping[str, str], *, signed: bool) -> bool:
        """Take in what the agent of another node says of its pods that start; for the thread that reads."""
        groups = self._made.namespaces.keys() - {UNSELECTED}
        new = self._told.take(node, pods, groups, self._known_pods, signed=signed)
        if new:
            self._told_news = True
            self._changed_urgently()
        return new

    def in_place(self, *, everywhere: bool = True) -> None:
        """Let the container runtime go on with the pods that the last ``read`` has told of."""
        if self.runtime is not None:
            self.runtime.in_place(everywhere=everywhere)

    def close(self) -> None:
        """Stop all watches."""
        for informer in self._informers():
            informer.stop()
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._event)

    def unheard(self) -> set[str]:
        """Return the Nodes that have addresses by what stands written, and whose agents have never said anything."""
        objects = self._objects
        heard = {node.name for node in objects.egress_nodes.values() if node.host_ips}
        there = {node.name for node in objects.nodes.values()}
        return {entry.node for entry in objects.assignments.values()} & there - heard

    # For those who write status

    @property
    def objects(self) -> ApiObjects:
        """The objects of the last ``read``."""
        return self._objects

    def silence(self) -> float:
        """Return for how many seconds the quietest watch has not been heard."""
        return max(time.monotonic() - informer.heard for informer in self._informers())

    def counts(self) -> dict[str, int]:
        """Return how many requests were sent and how many events came, over all present watches."""
        informers = self._informers()
        return {"requests": sum(i.requests for i in informers), "events": sum(i.events for i in informers)}
