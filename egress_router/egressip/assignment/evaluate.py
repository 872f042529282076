"""The rules, one function each: on an address, on a namespace, on a node. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from egress_router.egressip.api import (
    Disposition,
    NamespaceDecision,
    NodeDecision,
    Via,
    address_key,
    address_text,
    family,
    length_hint,
    network_range,
    networks_of,
)
from egress_router.egressip.assignment.index import Index
from egress_router.egressip.assignment.node_constraints import outside
from egress_router.errors import printable


@dataclass(frozen=True, slots=True)
class Verdict:
    """``holder`` is the node that has the address on its interface (None: nobody has), ``usable`` whether it may
    be used now, ``reason`` why not.
    """

    holder: str | None
    usable: bool
    reason: str = ""


def evaluate_address(index: Index, key: int) -> Verdict:
    """Evaluate an address that at least one namespace lists (rules 2, 3, 5 and 6)."""
    text = address_text(key)
    own = index.nodes_with_host_ip(key)
    if own:
        return Verdict(None, usable=False, reason=f"{text}: the own address of {named('node', own)}")
    others = conflict(index, key)
    if others:
        return Verdict(None, usable=False, reason=f"{text}: {others}")
    listed = index.nodes_listing(key)
    if not listed:
        return evaluate_assigned(index, key)
    (node,) = listed
    if not index.eligible(node):
        return Verdict(None, usable=False, reason=f"{text}: node {node} has no hostIP of its own")
    if not index.constraints[node].may_hold(key):
        return Verdict(None, usable=False, reason=outside(key, node))
    if node in index.offline:
        return Verdict(node, usable=False, reason=f"{text}: node {node} is offline")
    return Verdict(node, usable=True)


def evaluate_assigned(index: Index, key: int) -> Verdict:
    """Evaluate an address that one namespace and no node lists: the assignment has the word (rule 8)."""
    node = index.graph.node_of(key)
    if node is not None:
        return Verdict(node, usable=True)
    why = (
        "the controller has given it to none"
        if index.follows
        else "no online node may be given it (egressCIDRs, capacity, one per namespace)"
    )
    return Verdict(None, usable=False, reason=f"{address_text(key)}: no node lists it, and {why}")


def conflict(index: Index, key: int) -> str:
    """Return the words about a conflict (rule 3), empty when there is none."""
    words = []
    if len(index.namespaces_listing(key)) > 1:
        words.append(f"listed by {named('namespace', index.namespaces_listing(key))}")
    if len(index.nodes_listing(key)) > 1:
        words.append(f"listed by {named('node', index.nodes_listing(key))}")
    return " and ".join(words) + "; released until one is left" if words else ""


def evaluate_namespace(index: Index, name: str) -> NamespaceDecision:
    """Decide what happens to a namespace's traffic (rules 1, 2 and 4)."""
    namespace = index.namespaces[name]
    if not namespace.egress_ips and not namespace.pool:
        return NamespaceDecision(namespace.netid, Disposition.NORMAL)
    reasons = {
        f'"{printable(text)}" is not an address that a node can hold{length_hint(text)}'
        for text in namespace.egress_ips
        if address_key(text) is None
    }
    if not namespace.egress_ips:
        reasons.add(f"no address of the pool {printable(namespace.pool)} was given")
    via: list[tuple[int, str]] = []
    first_on: dict[tuple[str, int], int] = {}
    for key in index.keys[name]:
        verdict = evaluate_address(index, key)
        if verdict.holder is not None:
            first = first_on.setdefault((verdict.holder, family(key)), key)
            if first != key:
                reasons.add(
                    f"{address_text(key)}: node {verdict.holder} holds {address_text(first)} of this namespace "
                    "already; a second one there gives no redundancy and is not used"
                )
                continue
        if verdict.usable and verdict.holder is not None:
            via.append((key, verdict.holder))
        else:
            reasons.add(verdict.reason)
    return NamespaceDecision(
        namespace.netid,
        Disposition.EGRESS if via else Disposition.DROP,
        tuple(Via(address_text(key), node) for key, node in sorted(via)),
        tuple(sorted(reasons)),
        tuple(networks_of(span for text in namespace.excepted if (span := network_range(text)) is not None)),
        namespace.node_ip,
    )


def evaluate_node(index: Index, name: str) -> NodeDecision:
    """Decide what a node has on its interface (rules 2, 3, 5, 6 and 8), and what is wrong with its object."""
    constraints = index.constraints[name]
    claims = list(index.graph.addresses_on(name))
    problems = set(constraints.problems)
    if constraints.host is not None and not index.eligible(name):
        others = index.nodes_with_host_ip(constraints.host)
        problems.add(
            f"hostIP {address_text(constraints.host)} stands on {named('node', others)}; none holds an egress IP"
        )
    for key in constraints.listed:
        if not constraints.may_hold(key):
            problems.add(outside(key, name))
        if not index.namespaces_listing(key):
            if index.nodes_with_host_ip(key):
                problems.add(f"{address_text(key)}: the own address of {named('node', index.nodes_with_host_ip(key))}")
            elif conflict_text := conflict(index, key):
                problems.add(f"{address_text(key)}: {conflict_text}")
            else:
                problems.add(f"{address_text(key)}: no namespace lists it; not claimed")
            continue
        verdict = evaluate_address(index, key)
        if verdict.holder == name:
            claims.append(key)
        else:
            problems.add(verdict.reason)
    return NodeDecision(tuple(address_text(key) for key in sorted(claims)), tuple(sorted(problems)))


def named(kind: str, names: Iterable[str], limit: int = 5) -> str:
    """Return "node a", "nodes a and b" or, of many, the first few and how many more there are."""
    all_names = sorted(names)
    if len(all_names) == 1:
        return f"{kind} {all_names[0]}"
    if len(all_names) > limit:
        return f"{kind}s {', '.join(all_names[:limit])} and {len(all_names) - limit} more"
    return f"{kind}s {', '.join(all_names[:-1])} and {all_names[-1]}"
