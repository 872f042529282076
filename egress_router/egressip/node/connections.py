"""Connections of pods when a node's state changes: which survive, and how the others are cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

from egress_router.egressip.api import ClusterState, Decision, address_key, address_text
from egress_router.egressip.node.marks import OWN_SLOT, Marks
from egress_router.egressip.node.nft_rules import flushed_script
from egress_router.egressip.node.state import NOT_OUTSIDE, Direct, Network, NodeState
from egress_router.egressip.node.tables import load
from egress_router.net.conntrack import Conntrack, Started

# Which connections of pods can go on when a node's state changes. Pure.


def translating_nodes(
    me: str, state: ClusterState, decision: Decision, slots: Mapping[str, int], pending: frozenset[str]
) -> dict[str, frozenset[int]]:
    """Return, for each pod address of node ``me`` whose namespace has egress IPs, the slots of the nodes that translate
    it, used for new connections or not.
    """
    holder_of = {
        ip: slot
        for name, slot in slots.items()
        if name in decision.nodes
        for ip in decision.nodes[name].claims
        if ip not in pending
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


def pods_to_recheck(before: NodeState | None, after: NodeState) -> set[str]:
    """Return the pods whose connections are to be judged. Those of holders that went down are not among them: they are
    all cut, or move by themselves. A pod that is new may have the address, and the connections, of one that is gone.
    """
    if before is None:
        return {*after.paths, *after.translations}
    gone = {h.slot for h in before.gateways} - {h.slot for h in after.gateways}
    found = {pod for pod, ip in before.translations.items() if after.translations.get(pod) != ip}
    for pod in before.paths.keys() | after.paths.keys():
        old, new = before.paths.get(pod, Direct.NODE_ADDRESS), after.paths.get(pod, Direct.NODE_ADDRESS)
        left = before.translating_nodes.get(pod, frozenset()) - after.translating_nodes.get(pod, frozenset()) - gone
        if left or (old is Direct.NODE_ADDRESS) != (new is Direct.NODE_ADDRESS):
            found.add(pod)
    return found


def survives(state: NodeState, pod: str, slot: int, source: str) -> bool:
    """Tell whether a connection to the outside that ``pod`` started can go on, with the slot of its mark (0: none) and
    the source that it left this node with.
    """
    path = state.paths.get(pod)
    if path is None or slot == OWN_SLOT:
        return source == state.translations.get(pod)
    if path is Direct.NODE_ADDRESS or slot == 0:
        return path is Direct.NODE_ADDRESS and slot == 0
    # Packets that are marked with the slot of a node that is not there take the pod's present way.
    return slot in state.translating_nodes.get(pod, frozenset()) or slot not in {h.slot for h in state.gateways}


# Cut connections, so that clients start new ones at once.


def cut_slot(slot: int, marks: Marks) -> int:
    """Delete the connections of any protocol that leave by a slot; return how many. Raises PlatformError."""
    with Conntrack() as conntrack:
        return conntrack.end(conntrack.marked(marks.mark_of(slot), marks.mask))


def take_over_marks(mask: int, slots: Mapping[int, int], marks: Marks) -> int:
    """Give the connections with a mark of an agent that had other ones (``mask``, mark → slot) that of their slot;
    return how many. Raises PlatformError.
    """
    changed = 0
    with Conntrack() as conntrack:
        for mark, slot in slots.items():
            if mask != marks.mask or marks.slot_of(mark) != slot:
                found = conntrack.marked(mark, mask)
                changed += conntrack.set_mark(found, marks.mark_of(slot), mask | marks.mask)
    return changed


def cut_egress_ips(ips: Iterable[str]) -> int:
    """Delete the connections of any protocol that are translated to one of ``ips``; return how many. Raises
    PlatformError.
    """
    with Conntrack() as conntrack:
        return conntrack.end(conntrack.replying_to(map(ip_address, ips)))


# Cut the connections of pods that a change leaves without a way, so that what follows takes the new one.


def cut_stale(before: NodeState | None, after: NodeState, cluster: Iterable[Network], marks: Marks) -> int:
    """Cut the connections to the outside that ``after`` would drop for ever; return how many. A UDP flow that never
    pauses keeps its entry, and so its former way, as long as it lasts. Raises PlatformError.
    """
    pods = pods_to_recheck(before, after)
    if not pods:
        return 0
    inside = [*cluster, *(ip_network(text) for texts in NOT_OUTSIDE.values() for text in texts)]

    def stale(started: Started) -> bool:
        slot = marks.slot_of(started.mark)
        return not survives(after, str(started.source), slot, str(started.answers_to)) and not any(
            started.answers_from in network for network in inside
        )

    with Conntrack() as conntrack:
        found = conntrack.started(map(ip_address, pods), stale)
        # A reply that is on its way would make a connection the other way round.
        load(flushed_script({str(started.source) for started in found}))
        return conntrack.end(found)
