"""Connections of pods when a node's state changes: which survive, and how the others are cut."""

from __future__ import annotations

import socket
from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network

from egress_router.config.values import Address
from egress_router.egressip.api import Decision, NetNamespace, address_key, address_text, family
from egress_router.egressip.node.marks import OWN_SLOT, Marks
from egress_router.egressip.node.nft_rules import flushed_script
from egress_router.egressip.node.state import NOT_OUTSIDE, Direct, Network, NodeState
from egress_router.egressip.node.tables import load
from egress_router.net.conntrack import Conntrack, Started

#: The numbers of the protocols whose connections the other end knows by their addresses, see nft_rules; DCCP is 33.
CONNECTED = (socket.IPPROTO_TCP, socket.IPPROTO_SCTP, 33)

# Which connections of pods can go on when a node's state changes. Pure.


class Translators:
    """The slots of the nodes that translate a namespace, used for new connections or not."""

    def __init__(
        self,
        namespaces: Mapping[str, NetNamespace],
        decision: Decision,
        slots: Mapping[str, int],
        pending: Container[str],
    ) -> None:
        """``pending``: addresses that the node which shall have them does not have yet."""
        self._namespaces = namespaces
        self._slot_of = {
            ip: slot
            for name, slot in slots.items()
            if name in decision.nodes
            for ip in decision.nodes[name].claims
            if ip not in pending
        }
        self._found: dict[tuple[str, int], frozenset[int] | None] = {}

    def of(self, namespace: str, version: int) -> frozenset[int] | None:
        """Return the slots in a family; None for a namespace without egress IPs."""
        key = (namespace, version)
        if key not in self._found:
            space = self._namespaces.get(namespace)
            self._found[key] = None if space is None or not space.egress_ips else self._slots(space, version)
        return self._found[key]

    def _slots(self, space: NetNamespace, version: int) -> frozenset[int]:
        keys = {key for text in space.egress_ips if (key := address_key(text)) is not None and family(key) == version}
        return frozenset(self._slot_of[text] for text in map(address_text, keys) if text in self._slot_of)


def pods_to_recheck(before: NodeState | None, after: NodeState) -> set[str]:
    """Return the pods whose connections are to be judged. Those of holders that went down are not among them: they are
    all cut, or move by themselves; but where some of them wait for a standby, those that do not are. A pod that is new
    may have the address, and the connections, of one that is gone.
    """
    if before is None:
        return {*after.paths, *after.translations}
    gone = ({h.slot for h in before.gateways} | before.awaited) - {h.slot for h in after.gateways} - after.awaited
    found = {pod for pod, ip in before.translations.items() if after.translations.get(pod) != ip}
    for pod in before.paths.keys() | after.paths.keys():
        old, new = before.paths.get(pod, Direct.NODE_ADDRESS), after.paths.get(pod, Direct.NODE_ADDRESS)
        left = before.translating_nodes.get(pod, frozenset()) - after.translating_nodes.get(pod, frozenset()) - gone
        directly = before.excepted.get(pod) != after.excepted.get(pod)
        if left or directly or (old is Direct.NODE_ADDRESS) != (new is Direct.NODE_ADDRESS):
            found.add(pod)
    return found


def survives(state: NodeState, pod: str, slot: int, source: str, *, directly: bool, connected: bool) -> bool:
    """Tell whether a connection to the outside that ``pod`` started can go on, with the slot of its mark (0: none) and
    the source that it left this node with. ``directly``: its destination is reached directly, see ``is_excepted``;
    ``connected``: it is of one of the protocols CONNECTED.
    """
    path = state.paths.get(pod)
    if path is None:
        return source == state.translations.get(pod)
    if directly:
        # A flow of datagrams takes the direct way at once; what is connected keeps its holder as long as there is one.
        if slot == 0 or not connected:
            return slot == 0
        return _has_holder(state, pod, slot, source)
    if slot == OWN_SLOT:
        return _has_holder(state, pod, slot, source)
    if path is Direct.NODE_ADDRESS or slot == 0:
        return path is Direct.NODE_ADDRESS and slot == 0
    # What was reached directly may have been marked before it was looked at; it bears another source than the pod's.
    # Packets that are marked with the slot of a node that is not there take the pod's present way.
    present = {h.slot for h in state.gateways} | state.awaited
    return source == pod and (_has_holder(state, pod, slot, source) or slot not in present)


def _has_holder(state: NodeState, pod: str, slot: int, source: str) -> bool:
    if slot == OWN_SLOT:
        return source == state.translations.get(pod)
    return source == pod and slot in state.translating_nodes.get(pod, frozenset())


def is_excepted(state: NodeState, pod: str, destination: Address) -> bool:
    """Tell whether a local pod reaches a destination directly."""
    return any(destination in network for network in _networks(state.excepted.get(pod, ())))


@lru_cache(maxsize=1 << 12)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


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


def lead_to(pods: Iterable[str], old: int, new: int, marks: Marks) -> int:
    """Have the connections of local pods that left by one slot leave by another; return how many. Raises
    PlatformError.
    """
    with Conntrack() as conntrack:
        found = conntrack.started(map(ip_address, pods), lambda started: marks.slot_of(started.mark) == old)
        return conntrack.set_mark(found, marks.mark_of(new), marks.mask)


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
        pod = str(started.source)
        goes_on = survives(
            after,
            pod,
            marks.slot_of(started.mark),
            str(started.answers_to),
            directly=is_excepted(after, pod, started.answers_from),
            connected=started.protocol in CONNECTED,
        )
        return not goes_on and not any(started.answers_from in network for network in inside)

    with Conntrack() as conntrack:
        found = conntrack.started(map(ip_address, pods), stale)
        # A reply that is on its way would make a connection the other way round.
        load(flushed_script({str(started.source) for started in found}))
        return conntrack.end(found)
