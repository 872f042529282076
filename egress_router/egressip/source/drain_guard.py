"""`kubectl drain` waits for a node's hand-over: by guard pods under a PodDisruptionBudget that lets none go.

`kubectl drain` cordons the node, then asks for the eviction of its pods, and asks again as long as a budget is in the
way. A guard pod (deploy/egress-ips/components/guard) on each node that may hold egress IPs is such a pod. When its node
has handed everything over, this program gives it a label that the budget's selector leaves out, so that this one pod
may go and no other. A cordon is told to the agent of the node by an annotation of its EgressNode, where that is wanted:
a drain has no other sign.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from egress_router.egressip.source.api_objects import (
    CORDONED,
    EGRESS_NODES,
    GROUP,
    ApiPod,
    EgressNode,
    LabelledParts,
    labelled,
)
from egress_router.egressip.source.groups import ApiObjects
from egress_router.egressip.source.kubernetes import NAMESPACES, NODES, KubernetesSource
from egress_router.egressip.source.write_loop import WriteLoop
from egress_router.kubernetes.client import MERGE_PATCH, ApiError, Client
from egress_router.kubernetes.informer import Informer, Resource
from egress_router.kubernetes.lease import NOT_FOUND, KubernetesLease
from egress_router.kubernetes.thread import StartThread

#: How often it is looked whether something is to be written; seconds.
EVERY = 1.0
#: The label of guard pods, and its value.
COMPONENT, GUARD = "app.kubernetes.io/component", "drain-guard"
#: The label of a guard pod whose node has handed everything over; the budget's selector leaves it out.
HANDED_OVER = f"{GROUP}/handed-over"


class DrainGuard:
    """Works while the lease is held."""

    def __init__(
        self,
        client: Client,
        source: KubernetesSource,
        lease: KubernetesLease,
        namespace: str,
        log: Callable[[str], None],
        *,
        on_cordon: bool,
    ) -> None:
        """``namespace`` is that of the guard pods; ``on_cordon``: a cordoned node hands over."""
        self._client = client
        self._source = source
        self._lease = lease
        self._namespace = namespace
        self._log = log
        self._cordoned = (
            Informer(
                client,
                Resource(NODES, "spec.unschedulable=true", metadata_only=True),
                labelled,
                _nothing,
                log,
                parts=LabelledParts,
            )
            if on_cordon
            else None
        )
        self._refused: ApiError | None = None
        #: Its thread.
        self.loop = WriteLoop(self.turn, every=EVERY, log=log, name="drain guard")

    def start(self, start: StartThread) -> None:
        """Begin."""
        if self._cordoned is not None:
            self._cordoned.start(start, "watch cordoned nodes")
        self.loop.start(start)

    def stop(self) -> None:
        """End."""
        self.loop.stop()
        if self._cordoned is not None:
            self._cordoned.stop()

    def turn(self, _now: float = 0.0) -> None:
        """Write what differs; what the server refuses of one object keeps nobody from the others. Raises
        EgressRouterError: the first refusal, or at once where the server cannot be reached.
        """
        if not self._lease.held():
            return
        self._refused = None
        objects = self._source.objects
        if self._cordoned is None:
            self._tell_agents(objects, ())
        elif self._cordoned.synced:
            self._tell_agents(objects, [node.name for node in self._cordoned.objects().values()])
        nodes = {node.name: node for node in objects.egress_nodes.values()}
        for pod in objects.pods.values():
            if pod.namespace == self._namespace and (COMPONENT, GUARD) in pod.labels:
                self._label(pod, nodes.get(pod.node))
        if self._refused is not None:
            raise self._refused

    def _tell_agents(self, objects: ApiObjects, cordoned: Collection[str]) -> None:
        for node in objects.egress_nodes.values():
            wanted = node.name in cordoned
            if wanted != node.cordoned:
                body = {"metadata": {"uid": node.uid, "annotations": {CORDONED: "true" if wanted else None}}}
                if self._patch(f"{EGRESS_NODES}/{node.name}", body):
                    self._log(f"node {node.name} is {'cordoned: it hands over' if wanted else 'not cordoned any more'}")

    def _label(self, pod: ApiPod, node: EgressNode | None) -> None:
        """Let a guard pod go when its node is drained and has handed everything over, and only as long as it is."""
        free = node is not None and (node.drain or node.cordoned) and node.handed_over
        if free == any(key == HANDED_OVER for key, _ in pod.labels):
            return
        body = {"metadata": {"uid": pod.uid, "labels": {HANDED_OVER: "true" if free else None}}}
        if self._patch(f"{NAMESPACES}/{pod.namespace}/pods/{pod.name}", body) and free:
            self._log(f"node {pod.node} has handed everything over: its guard pod {pod.name} may go")

    def _patch(self, path: str, body: object) -> bool:
        """Return whether the server took it."""
        self.loop.beat()
        try:
            self._client.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        except ApiError as error:
            if error.code != NOT_FOUND:
                self._refused = self._refused or error
            return False
        return True


def _nothing() -> None:
    """Nobody waits for these objects: they are looked at every EVERY seconds."""
