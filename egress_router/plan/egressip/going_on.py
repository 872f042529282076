"""Which connections of pods can go on when a node's state changes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from egress_router.model.address_keys import address_key, address_text
from egress_router.model.egressip import ClusterState, Decision
from egress_router.model.node import MARK_MASK, MARK_SHIFT, OWN_SLOT, NodeState


def serving(
    me: str, state: ClusterState, decision: Decision, slots: Mapping[str, int], lacking: frozenset[str]
) -> dict[str, frozenset[int]]:
    """Return, for each pod address of node ``me`` whose namespace has egress IPs, the slots of the nodes that translate
    it, used for new connections or not.
    """
    holder_of = {
        ip: slot
        for name, slot in slots.items()
        if name in decision.nodes
        for ip in decision.nodes[name].claims
        if ip not in lacking
    }
    by_namespace: dict[tuple[str, bool], frozenset[int]] = {}
    found: dict[str, frozenset[int]] = {}
    for pod in state.pods.values():
        space = state.namespaces.get(pod.namespace)
        if pod.node != me or space is None or not space.egress_ips:
            continue
        for ip in pod.ips:
            key = (pod.namespace, ":" in ip)
            if key not in by_namespace:
                texts = {address_text(known) for text in space.egress_ips if (known := address_key(text)) is not None}
                by_namespace[key] = frozenset(
                    holder_of[text] for text in texts if text in holder_of and (":" in text) == key[1]
                )
            found[ip] = by_namespace[key]
    return found


def suspects(before: NodeState | None, after: NodeState) -> set[str]:
    """Return the pods whose connections are to be judged. Those of holders that went down are not among them: they are
    all cut, or move by themselves. A pod that is new may have the address, and the connections, of one that is gone.
    """
    if before is None:
        return {*after.ways, *after.translations}
    gone = {h.slot for h in before.holders} - {h.slot for h in after.holders}
    found = {pod for pod, ip in before.translations.items() if after.translations.get(pod) != ip}
    for pod in before.ways.keys() | after.ways.keys():
        old, new = before.ways.get(pod, "normal"), after.ways.get(pod, "normal")
        left = before.serving.get(pod, frozenset()) - after.serving.get(pod, frozenset()) - gone
        if left or (old == "normal") != (new == "normal"):
            found.add(pod)
    return found


def goes_on(state: NodeState, pod: str, mark: int, source: str) -> bool:
    """Tell whether a connection to the outside that ``pod`` started can go on, with the mark that it has and the source
    that it left this node with.
    """
    slot = (mark & MARK_MASK) >> MARK_SHIFT
    way = state.ways.get(pod)
    if way is None or slot == OWN_SLOT:
        return source == state.translations.get(pod)
    if way == "normal" or slot == 0:
        return way == "normal" and slot == 0
    # Packets that are marked with the slot of a node that is not there take the pod's present way.
    return slot in state.serving.get(pod, frozenset()) or slot not in {h.slot for h in state.holders}
