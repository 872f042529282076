"""The decision on the cluster: from scratch, and kept up to date change by change; as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from egress_router.egressip.api import (
    NODE_IP,
    ClusterState,
    Decision,
    Disposition,
    HostSubnet,
    NamespaceDecision,
    NetNamespace,
    NodeDecision,
    address_key,
    address_text,
)
from egress_router.egressip.assignment.evaluate import evaluate_namespace, evaluate_node
from egress_router.egressip.assignment.index import Index
from egress_router.egressip.assignment.solve import solve
from egress_router.egressip.assignment.standby import taken_over, with_standbys
from egress_router.egressip.assignment.staying import joined, with_staying

Assignment = Mapping[str, Collection[str]]


def decide(
    state: ClusterState, offline: Iterable[str] = (), present: Assignment | None = None, *, standby: bool = False
) -> Decision:
    """Decide from scratch. ``offline`` are the nodes that are down, ``present`` the egress IPs by node that are
    assigned automatically now (only used to move as few of them as possible; default: what the state records).
    ``standby``: with a standby for each address that is assigned automatically, and without moves for the balance.
    """
    evaluator = Evaluator(present=state.assignment if present is None else present, balance=not standby)
    down = frozenset(offline)
    taken = taken_over(state, down) if standby else {}
    evaluator.update(namespaces=dict(state.namespaces), nodes=with_staying(state.nodes, taken), offline=down)
    decision = joined(evaluator.decision(), taken)
    return with_standbys(decision, state.namespaces, state.nodes, down, state.standbys) if standby else decision


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

    def __init__(self, present: Assignment | None = None, *, follows: bool = False, balance: bool = True) -> None:
        """``follows``: the assignment stands in the objects, see ``with_recorded_assignment``; reasons say so.
        ``balance``: see ``solve``.
        """
        self._balance = balance
        self._index = Index(follows=follows)
        self._namespaces: dict[str, NamespaceDecision] = {}
        self._nodes: dict[str, NodeDecision] = {}
        self._index.graph.start_from(_by_address(present or {}))

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
        for key, ends in solve(index.graph, balance=self._balance).items():
            index.dirty_namespaces |= index.namespaces_listing(key)
            index.dirty_nodes.update(node for node in ends if node is not None)
        return self._evaluate()

    def _evaluate(self) -> Change:
        index = self._index
        change = Change(frozenset(index.dirty_namespaces), frozenset(index.dirty_nodes))
        for name in change.namespaces:
            if name in index.namespaces:
                self._namespaces[name] = evaluate_namespace(index, name)
            else:
                self._namespaces.pop(name, None)
        for name in change.nodes:
            if name in index.nodes:
                self._nodes[name] = evaluate_node(index, name)
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
            {node: tuple(address_text(key) for key in keys) for node, keys in self._index.graph.assignment().items()},
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


def with_recorded_assignment(state: ClusterState) -> ClusterState:
    """Return what a node's agent decides on: no egressCIDRs, every recorded address in its node's egressIPs, hostIPs in
    their canonical form. Agents see different nodes as offline for moments; if each assigned addresses on its own, two
    nodes could hold one, so all follow what the controller has written down. An address that some node lists by hand is
    not added: the listing by hand is newer.
    """
    by_hand = {address_key(ip) for node in state.nodes.values() for ip in node.egress_ips}

    def followed(name: str, node: HostSubnet) -> HostSubnet:
        recorded = tuple(ip for ip in state.assignment.get(name, ()) if address_key(ip) not in by_hand)
        key = address_key(node.host_ip)
        host_ip = node.host_ip if key is None else address_text(key)
        if not recorded and not node.egress_cidrs and host_ip == node.host_ip:
            return node
        return replace(node, host_ip=host_ip, egress_cidrs=(), egress_ips=node.egress_ips + recorded)

    return replace(state, nodes={name: followed(name, node) for name, node in state.nodes.items()})


def decision_json(decision: Decision) -> str:
    """Return the decision as one JSON document, sorted and stable."""
    return json.dumps(
        {
            "namespaces": {
                name: {
                    "netid": verdict.netid,
                    "disposition": verdict.disposition.value,
                    "via": [{"ip": via.ip, "node": via.node} for via in verdict.via],
                    "reasons": list(verdict.reasons),
                    **({"except": list(verdict.excepted)} if verdict.excepted else {}),
                    **({"whenUnavailable": NODE_IP} if verdict.node_ip else {}),
                }
                for name, verdict in sorted(decision.namespaces.items())
            },
            "nodes": {
                name: {"claims": list(verdict.claims), "problems": list(verdict.problems)}
                for name, verdict in sorted(decision.nodes.items())
            },
            "assignment": {node: list(ips) for node, ips in sorted(decision.assignment.items())},
            **({"standbys": dict(decision.standbys)} if decision.standbys else {}),
        },
        indent=2,
    )


def reached_directly(excepted: Collection[str]) -> list[str]:
    """Return a line that says which networks are reached directly; none where there are none."""
    return [f"reached directly: {', '.join(excepted)}"] if excepted else []


def decision_text(decision: Decision) -> str:
    """Return the decision for people: dropped namespaces first, then others that lack an address, nodes with problems,
    and then what is well: namespaces, and nodes that hold something. Normal namespaces are only counted.
    """
    blocks: list[tuple[int, list[str]]] = []
    normal = 0
    for name, verdict in sorted(decision.namespaces.items()):
        if verdict.disposition is Disposition.NORMAL:
            normal += 1
            continue
        dropped = verdict.disposition is Disposition.DROP
        ways = ", ".join(f"{via.ip} on {via.node}" for via in verdict.via)
        unavailable = (
            "leaves with the address of the pod's node (whenUnavailable: NodeIP)" if verdict.node_ip else "DROP"
        )
        line = f"namespace {name}: {unavailable if dropped else f'leaves with {ways}'}"
        rank = 0 if dropped else 1 if verdict.reasons else 3
        blocks.append(
            (rank, [line, *(f"    {text}" for text in (*verdict.reasons, *reached_directly(verdict.excepted)))])
        )
    if normal:
        blocks.append((4, [f"{normal} namespace{'' if normal == 1 else 's'} without egress IPs: normal"]))
    for node, held in sorted(decision.nodes.items()):
        if held.claims or held.problems:
            given = set(decision.assignment.get(node, ()))
            claims = ", ".join(f"{ip}{_how_held(decision, ip) if ip in given else ''}" for ip in held.claims)
            line = f"node {node}: {'holds ' + claims if claims else 'holds nothing'}"
            blocks.append((2 if held.problems else 5, [line, *(f"    {problem}" for problem in held.problems)]))
    return "\n".join(line for _, lines in sorted(blocks, key=lambda block: block[0]) for line in lines)


def _how_held(decision: Decision, ip: str) -> str:
    if not decision.standbys:
        return " (automatic)"
    standby = decision.standbys.get(ip)
    return f" (automatic, standby {standby})" if standby else " (automatic, no node can be its standby)"
