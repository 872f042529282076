"""The decision on the cluster: from scratch, and kept up to date change by change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from egress_router.model.address_keys import address_key, address_text
from egress_router.model.egressip import (
    ClusterState,
    Decision,
    HostSubnet,
    NamespaceDecision,
    NetNamespace,
    NodeDecision,
)
from egress_router.plan.egressip.index import Index
from egress_router.plan.egressip.judge import judge_namespace, judge_node
from egress_router.plan.egressip.settle import settle

Assignment = Mapping[str, Collection[str]]


def decide(state: ClusterState, offline: Iterable[str] = (), present: Assignment | None = None) -> Decision:
    """Decide from scratch. ``offline`` are the nodes that are down, ``present`` the egress IPs by node that are
    assigned automatically now (only used to move as few of them as possible; default: what the state records).
    """
    evaluator = Evaluator(present=state.assignment if present is None else present)
    evaluator.update(namespaces=dict(state.namespaces), nodes=dict(state.nodes), offline=frozenset(offline))
    return evaluator.decision()


@dataclass(frozen=True, slots=True)
class Change:
    """The names whose verdict may differ after an update (those without an object any more included)."""

    namespaces: frozenset[str]
    nodes: frozenset[str]


class Evaluator:
    """A decision that follows the objects: ``update`` costs what the change touches, not what the cluster holds.

    After any sequence of updates ``decision()`` equals ``decide`` of the final objects, with the assignment
    before the last update as the present one.
    """

    def __init__(self, present: Assignment | None = None, *, follows: bool = False) -> None:
        """``follows``: the assignment stands in the objects, see ``with_recorded_assignment``; reasons say so."""
        self._index = Index(follows=follows)
        self._namespaces: dict[str, NamespaceDecision] = {}
        self._nodes: dict[str, NodeDecision] = {}
        self._index.pool.start_from(_by_address(present or {}))

    def update(
        self,
        namespaces: Mapping[str, NetNamespace | None] | None = None,
        nodes: Mapping[str, HostSubnet | None] | None = None,
        offline: Collection[str] | None = None,
    ) -> Change:
        """Take in changed objects (None: removed) and the whole set of offline nodes (None: as before)."""
        index = self._index
        for name, namespace in (namespaces or {}).items():
            old_namespace = index.namespaces.get(name)
            if old_namespace is not namespace and old_namespace != namespace:
                index.set_namespace(name, namespace)
        for name, node in (nodes or {}).items():
            old_node = index.nodes.get(name)
            if old_node is not node and old_node != node:
                index.set_node(name, node)
        if offline is not None:
            index.set_offline(offline)
        for key, ends in settle(index.pool).items():
            index.dirty_namespaces |= index.wanted_by(key)
            index.dirty_nodes.update(node for node in ends if node is not None)
        return self._judge()

    def _judge(self) -> Change:
        index = self._index
        change = Change(frozenset(index.dirty_namespaces), frozenset(index.dirty_nodes))
        for name in change.namespaces:
            if name in index.namespaces:
                self._namespaces[name] = judge_namespace(index, name)
            else:
                self._namespaces.pop(name, None)
        for name in change.nodes:
            if name in index.nodes:
                self._nodes[name] = judge_node(index, name)
            else:
                self._nodes.pop(name, None)
        index.dirty_namespaces.clear()
        index.dirty_nodes.clear()
        return change

    def namespace(self, name: str) -> NamespaceDecision | None:
        """Return the verdict on one namespace."""
        return self._namespaces.get(name)

    def node(self, name: str) -> NodeDecision | None:
        """Return the verdict on one node."""
        return self._nodes.get(name)

    def decision(self) -> Decision:
        """Return the verdict on the cluster, names sorted."""
        return Decision(
            {name: self._namespaces[name] for name in sorted(self._namespaces)},
            {name: self._nodes[name] for name in sorted(self._nodes)},
            {node: tuple(address_text(key) for key in keys) for node, keys in self._index.pool.assignment().items()},
        )


def _by_address(present: Assignment) -> dict[int, str]:
    """Return the node of each address. One that stands on several nodes counts for the first name."""
    result: dict[int, str] = {}
    for node in sorted(present):
        for text in present[node]:
            key = address_key(text)
            if key is not None:
                result.setdefault(key, node)
    return result
