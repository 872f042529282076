"""A standby for each address that is assigned automatically: the node that keeps its connections as well, and takes it
over. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush

from egress_router.egressip.api import (
    ClusterState,
    Decision,
    HostSubnet,
    NetNamespace,
    address_key,
    address_text,
    family,
)
from egress_router.egressip.assignment.node_constraints import NodeConstraints, node_constraints

#: Namespace and IP version: a node has at most one such address.
_Kind = tuple[str, int]


def with_standbys(
    decision: Decision,
    namespaces: Mapping[str, NetNamespace],
    nodes: Mapping[str, HostSubnet],
    leaving: Collection[str],
    before: Mapping[str, str],
) -> Decision:
    """Return the decision with a standby for each address that is assigned automatically and that another node may be
    given: never its holder, none of the nodes that are down or drained (``leaving``), none that has another address of
    the namespace and family, none without room for it.

    A standby stays who it was (``before``) as long as it may. Else it is the node with the fewest addresses, those
    counted that it would take over from the same holder. Room is counted for one holder that fails, not for several at
    once. The same objects and ``before`` give the same standbys.
    """
    standbys = _Standbys(decision, namespaces, nodes, leaving)
    for ip, node in sorted(before.items()):
        standbys.keep(ip, node)
    standbys.choose_the_rest()
    return replace(decision, standbys=dict(sorted(standbys.found.items(), key=lambda item: address_key(item[0]) or 0)))


def taken_over(state: ClusterState, leaving: Collection[str]) -> dict[str, str]:
    """Return the standby of each address whose node is one of ``leaving``, or may not be given it any more by the
    objects; only a standby that is none of them and may be given it. Of two addresses of a namespace and family that
    have the same standby, one.
    """
    kinds = _kinds(state.namespaces.values(), state.standbys)
    constraints = {name: node_constraints(node) for name, node in state.nodes.items()}
    by_hand = {key for one in constraints.values() for key in one.listed}
    found: dict[str, str] = {}
    taken: set[tuple[str, _Kind]] = set()
    for node, ips in sorted(state.assignment.items()):
        for ip in ips:
            standby, key, kind = state.standbys.get(ip, ""), address_key(ip), kinds.get(ip)
            if key is None or key in by_hand or kind is None or standby in (*leaving, node):
                continue
            stays = node not in leaving and _may_be_given(constraints.get(node), key)
            if not stays and _may_be_given(constraints.get(standby), key) and (standby, kind) not in taken:
                found[ip] = standby
                taken.add((standby, kind))
    return found


def _may_be_given(one: NodeConstraints | None, key: int) -> bool:
    return one is not None and any(first <= key <= last for first, last in one.ranges)


class _Standbys:
    """Standbys as they are found, with the room that each takes."""

    def __init__(
        self,
        decision: Decision,
        namespaces: Mapping[str, NetNamespace],
        nodes: Mapping[str, HostSubnet],
        leaving: Collection[str],
    ) -> None:
        self.found: dict[str, str] = {}
        self._holder = {ip: node for node, ips in decision.assignment.items() for ip in ips}
        self._load = {node: len(ips) for node, ips in decision.assignment.items()}
        self._kinds = _kinds(namespaces.values(), self._holder)
        constraints = {name: node_constraints(node) for name, node in nodes.items()}
        hosts = Counter(one.host for one in constraints.values())
        self._constraints = {
            name: one
            for name, one in sorted(constraints.items())
            if name not in leaving and one.ranges and one.host is not None and hosts[one.host] == 1
        }
        #: What each node has already: a second address of the same kind would not be used there.
        self._has: dict[str, set[_Kind]] = {}
        owners = _owners(namespaces.values())
        for name, held in decision.nodes.items():
            keys = [*map(address_key, held.claims), *(constraints[name].listed if name in constraints else ())]
            self._has[name] = {(owner, family(key)) for key in keys if key for owner in owners.get(key, ())}
        #: By holder: how many of its addresses each node is the standby of, and of which kinds.
        self._reserved: dict[str, Counter[str]] = {}
        self._kinds_reserved: set[tuple[str, str, _Kind]] = set()
        self._total: Counter[str] = Counter()

    def keep(self, ip: str, node: str) -> None:
        """Make the node the standby of the address if it may be."""
        if ip in self._holder and self._may(ip, node):
            self._take(ip, node)

    def choose_the_rest(self) -> None:
        """Find a standby for each address that has none yet, the lowest first."""
        left: dict[str, list[int]] = {}
        for ip, holder in self._holder.items():
            if ip not in self.found and (key := address_key(ip)) is not None:
                left.setdefault(holder, []).append(key)
        for holder in sorted(left):
            heap = [(*self._burden(holder, node), node) for node in self._constraints if node != holder]
            heapify(heap)
            for key in sorted(left[holder]):
                self._choose(holder, address_text(key), heap)

    def _choose(self, holder: str, ip: str, heap: list[tuple[int, int, str]]) -> None:
        aside = []
        while heap:
            entry = heappop(heap)
            node = entry[2]
            if self._may(ip, node):
                self._take(ip, node)
                aside.append((*self._burden(holder, node), node))
                break
            aside.append(entry)
        for entry in aside:
            heappush(heap, entry)

    def _burden(self, holder: str, node: str) -> tuple[int, int]:
        """Return what the node would have if the holder failed, and of how many addresses it is the standby."""
        return self._load.get(node, 0) + self._reserved.get(holder, Counter())[node], self._total[node]

    def _may(self, ip: str, node: str) -> bool:
        key, kind, holder = address_key(ip), self._kinds.get(ip), self._holder[ip]
        one: NodeConstraints | None = self._constraints.get(node)
        if key is None or kind is None or one is None or node == holder:
            return False
        if one.capacity is not None and self._burden(holder, node)[0] >= one.capacity:
            return False
        if kind in self._has.get(node, ()) or (holder, node, kind) in self._kinds_reserved:
            return False
        return _may_be_given(one, key)

    def _take(self, ip: str, node: str) -> None:
        holder = self._holder[ip]
        self.found[ip] = node
        self._reserved.setdefault(holder, Counter())[node] += 1
        self._kinds_reserved.add((holder, node, self._kinds[ip]))
        self._total[node] += 1


def _owners(namespaces: Iterable[NetNamespace]) -> dict[int, list[str]]:
    """Return the namespaces that list each address."""
    found: dict[int, list[str]] = {}
    for space in namespaces:
        for text in space.egress_ips:
            key = address_key(text)
            if key is not None and space.name not in found.setdefault(key, []):
                found[key].append(space.name)
    return found


def _kinds(namespaces: Iterable[NetNamespace], wanted: Collection[str]) -> dict[str, _Kind]:
    owners = _owners(namespaces)
    return {
        ip: (owners[key][0], family(key))
        for ip in wanted
        if (key := address_key(ip)) is not None and len(owners.get(key, ())) == 1
    }
