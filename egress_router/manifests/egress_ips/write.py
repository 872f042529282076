"""Groups and nodes → YAML of our objects, in the order in which they are to be created."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from egress_router.egressip.api import NODE_IP, address_key
from egress_router.egressip.source.api_objects import API, STAYS, assignment_name
from egress_router.errors import few
from egress_router.kubernetes.selectors import Selector
from egress_router.manifests.egress_ips.values import NAMESPACE_NAME, Gathered, Group
from egress_router.manifests.render import fragment

#: Below that of every controller: the first one that leads goes on from what stands written.
_EPOCH = 0
#: A note names so many addresses.
_NAMED = 8


def written(groups: list[Group], into: Gathered) -> str:
    """Return the objects as YAML documents, "" without any; notes say what became of each."""
    return yaml_text(list(_objects(groups, into)))


def yaml_text(objects: Iterable[Mapping[str, Any]]) -> str:
    """Return objects as YAML documents."""
    return "---\n".join(fragment(value, 0).removeprefix("\n") + "\n" for value in objects)


def _objects(groups: list[Group], into: Gathered) -> Iterator[dict[str, Any]]:
    has = holders(groups, into)
    for name, ranges in into.pools.items():
        yield {"apiVersion": API, "kind": "EgressIPPool", "metadata": {"name": name}, "spec": {"ipRanges": ranges}}
    for group in groups:
        yield _egress_ip(group)
        ways = [f"{ip} on {has[ip]}" if ip in has else f"{ip} on no node" for ip in group.addresses]
        into.same(group.where, f"EgressIP {group.name}: {few(ways, _NAMED)}")
    by_hand = {ip for part in into.nodes.values() for ip in part.egress_ips}
    given = {ip: node for ip, node in has.items() if ip not in by_hand}
    for name in sorted({*into.nodes, *given.values()}):
        yield _egress_node(name, into)
    for ip in sorted(given, key=lambda ip: address_key(ip) or 0):
        yield {
            "apiVersion": API,
            "kind": "EgressIPAssignment",
            "metadata": {"name": assignment_name(ip), "annotations": {STAYS: "true"}},
            "spec": {"egressIP": ip, "node": given[ip], "epoch": _EPOCH},
        }


def holders(groups: Iterable[Group], into: Gathered) -> dict[str, str]:
    """Return the node of each address of the groups, where one has it."""
    found: dict[str, str] = {}
    for name, part in into.nodes.items():
        for ip in part.egress_ips:
            other = found.setdefault(ip, name)
            if other != name:
                into.wrong(f"node {name}", f"{ip} stands in node {other} too: neither gets it")
    listed = {ip for group in groups for ip in group.addresses}
    for ip, name in into.present.items():
        if ip in listed:
            found.setdefault(ip, name)
        else:
            into.wrong(f"node {name}", f"{ip} belongs to no EgressIP; it is not written")
    for group in groups:
        for ip, name in group.present.items():
            if ip not in group.addresses:
                continue
            other = found.setdefault(ip, name)
            if other != name:
                into.wrong(group.where, f"{ip} is said to be on {name} and on {other}; {other} is written")
    return found


def _egress_ip(group: Group) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": group.name}
    metadata |= {"labels": dict(group.labels)} if group.labels else {}
    metadata |= {"annotations": dict(group.annotations)} if group.annotations else {}
    every = {"matchExpressions": [{"key": NAMESPACE_NAME, "operator": "Exists"}]}
    spec: dict[str, Any] = {
        "egressIPs": list(group.addresses),
        # An empty one is refused, since it is so easily written by mistake.
        "namespaceSelector": _selector(group.namespaces) or every,
    }
    if group.pods.requirements:
        spec["podSelector"] = _selector(group.pods)
    if group.nodes is not None:
        spec["egressNodeSelector"] = _selector(group.nodes)
    if group.directly:
        spec["destinations"] = {"except": list(group.directly)}
    if group.node_ip:
        spec["whenUnavailable"] = NODE_IP
    return {"apiVersion": API, "kind": "EgressIP", "metadata": metadata, "spec": spec}


def _selector(selector: Selector) -> dict[str, Any]:
    labels: dict[str, str] = {}
    expressions: list[dict[str, Any]] = []
    for one in selector.requirements:
        if one.operator == "In" and len(one.values) == 1 and one.key not in labels:
            labels[one.key] = next(iter(one.values))
            continue
        expression: dict[str, Any] = {"key": one.key, "operator": one.operator}
        if one.values:
            expression["values"] = sorted(one.values)
        expressions.append(expression)
    found: dict[str, Any] = {}
    if labels:
        found["matchLabels"] = labels
    if expressions:
        found["matchExpressions"] = expressions
    return found


def _egress_node(name: str, into: Gathered) -> dict[str, Any]:
    # Without the Node as its owner: in another cluster than that of the files it would be removed for that.
    part = into.nodes.get(name)
    spec: dict[str, Any] = {}
    if part is not None:
        if part.egress_ips:
            spec["egressIPs"] = list(dict.fromkeys(part.egress_ips))
        if part.egress_cidrs:
            spec["egressCIDRs"] = list(dict.fromkeys(part.egress_cidrs))
        if part.capacity is not None:
            spec["capacity"] = {"ip": part.capacity}
    return {"apiVersion": API, "kind": "EgressNode", "metadata": {"name": name}, "spec": spec}
