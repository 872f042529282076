"""Cilium: CiliumEgressGatewayPolicy of cilium.io/v2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from egress_router.errors import described
from egress_router.kubernetes.selectors import Requirement, Selector
from egress_router.manifests.egress_ips.destinations import directly
from egress_router.manifests.egress_ips.fields import (
    addresses,
    meant,
    networks,
    selector,
    unknown,
    unsayable,
    usable_name,
)
from egress_router.manifests.egress_ips.values import NAMESPACE_NAME, Gathered, Group
from egress_router.manifests.objects import ManifestObject, as_list, as_mapping, as_text

#: Labels that Cilium gives its endpoints besides those of the pod.
_NAMESPACE = "io.kubernetes.pod.namespace"
_NAMESPACE_LABEL = "io.cilium.k8s.namespace.labels."
_OWN = "io.cilium."
_SOURCES = ("k8s:", "any:", "k8s.")


def egress_gateway_policy(item: ManifestObject, into: Gathered) -> None:
    """Each entry of ``selectors`` is a group; what leaves with one address is put together later."""
    spec = item.spec
    known = ("selectors", "destinationCIDRs", "excludedCIDRs", "egressGateway", "egressGateways")
    unknown(item, "spec", spec, known, into)
    destinations = networks(item, "spec.destinationCIDRs", spec.get("destinationCIDRs"), into)
    excluded = networks(item, "spec.excludedCIDRs", spec.get("excludedCIDRs"), into)
    if destinations is None or excluded is None or not usable_name(item, into):
        return
    gateway = _gateway(item, into)
    if gateway is None:
        return
    found, nodes = gateway
    around = directly(item, "spec.destinationCIDRs", destinations, excluded, found, into)
    if around is None:
        return
    labels, annotations = meant(item, into)
    present = _present(item, found, nodes, into)
    rules = as_list(spec.get("selectors"))
    if not rules:
        into.wrong(item.where, "spec.selectors selects no pod; nothing is written for it")
    written = 0
    for number, rule in enumerate(rules):
        field = f"spec.selectors[{number}]"
        pods = _pods(item, field, rule, into)
        if pods is None:
            continue
        name = item.name if not written else f"{item.name}-{written + 1}"
        written += 1
        into.groups.append(
            Group(item.where, name, found, pods[0], pods[1], nodes, around, present, labels, annotations)
        )


def _gateway(item: ManifestObject, into: Gathered) -> tuple[tuple[str, ...], Selector] | None:
    """Return the addresses and the nodes that may have them; None, and a note, where ours cannot have them."""
    several = as_list(item.spec.get("egressGateways"))
    entries = several or as_list([item.spec.get("egressGateway")])
    field = "spec.egressGateways" if several else "spec.egressGateway"
    if not entries:
        into.wrong(item.where, "has no egressGateway; nothing is written for it")
        return None
    found: dict[str, None] = {}
    choices: dict[Selector, None] = {}
    for entry in entries:
        unknown(item, field, entry, ("nodeSelector", "interface", "egressIP"), into)
        nodes = selector(item, f"{field}.nodeSelector", entry.get("nodeSelector"), into)
        listed = addresses(item, f"{field}.egressIP", entry.get("egressIP"), into)
        if nodes is None:
            return None
        if not listed:
            interface = as_text(entry.get("interface"))
            which = f"that of {interface}" if interface else "its first one"
            into.lost(
                item.where,
                f"{field} names no egressIP: its node's own address, {described(which)}, would be used, and ours are"
                " addresses that no machine has; nothing is written for it",
            )
            return None
        if owner := next((one.name for one in into.machines.values() if not one.addresses.isdisjoint(listed)), ""):
            into.lost(
                item.where,
                f"{field}.egressIP {listed[0]} is node {owner}'s own address, and ours are addresses that no machine"
                " has; nothing is written for it",
            )
            return None
        found.update(dict.fromkeys(listed))
        choices[nodes] = None
    if len(choices) > 1:
        into.lost(
            item.where,
            f"{field} choose their nodes by different labels, and an EgressIP has one egressNodeSelector; nothing is"
            " written for it",
        )
        return None
    if several:
        into.changed(item.where, f"{field}: pods are spread over the addresses by another hash")
    into.changed(
        item.where,
        f"take {', '.join(found)} off the interface where somebody has put it by hand: the agents do that now, and give"
        " it to another node when one dies",
    )
    return tuple(found), next(iter(choices))


def _present(item: ManifestObject, found: tuple[str, ...], nodes: Selector, into: Gathered) -> dict[str, str]:
    """Return the node that has the addresses: of those that the policy selects, the first by name."""
    if not into.machines:
        into.lost(
            item.where,
            f"which node has {', '.join(found)} is not in these files (add the output of `kubectl get nodes -o yaml`);"
            " the controller will choose one",
        )
        return {}
    names = sorted(one.name for one in into.machines.values() if nodes.matches(one.labels))
    if not names:
        into.wrong(item.where, "its egressGateway selects no node")
        return {}
    # With several gateways of the same labels all are on that node.
    return dict.fromkeys(found, names[0])


def _pods(item: ManifestObject, field: str, rule: dict[str, Any], into: Gathered) -> tuple[Selector, Selector] | None:
    """Return the selectors of namespaces and of pods of one entry of ``selectors``."""
    unknown(item, field, rule, ("podSelector", "namespaceSelector", "nodeSelector"), into)
    if as_mapping(rule.get("nodeSelector")):
        into.lost(
            item.where,
            f"{field}.nodeSelector: ours selects pods by their labels, not by their node; nothing is written for it",
        )
        return None
    spaces = selector(item, f"{field}.namespaceSelector", rule.get("namespaceSelector"), into)
    own = selector(item, f"{field}.podSelector", _without_sources(rule.get("podSelector")), into)
    if spaces is None or own is None:
        return None
    of_space, of_pod = list(spaces.requirements), []
    for requirement in own.requirements:
        if requirement.key == _NAMESPACE:
            of_space.append(Requirement(NAMESPACE_NAME, requirement.operator, requirement.values))
        elif requirement.key.startswith(_NAMESPACE_LABEL):
            key = requirement.key.removeprefix(_NAMESPACE_LABEL)
            of_space.append(Requirement(key, requirement.operator, requirement.values))
        elif requirement.key.startswith(_OWN):
            into.lost(
                item.where,
                f"{field}.podSelector {requirement.key} is no label of a pod; nothing is written for this entry",
            )
            return None
        else:
            of_pod.append(requirement)
    found = Selector(tuple(dict.fromkeys(of_space))), Selector(tuple(of_pod))
    for text in unsayable(found[0]):
        into.lost(item.where, f"{field}.podSelector {text}; nothing is written for this entry")
        return None
    return found


def _without_sources(value: Any) -> Any:
    """Return a selector whose keys have no ``k8s:`` in front, which Cilium takes away too."""
    if not isinstance(value, dict):
        return value
    bare = dict(value)
    labels = value.get("matchLabels")
    if isinstance(labels, dict):
        bare["matchLabels"] = {_bare(key): text for key, text in labels.items()}
    expressions = value.get("matchExpressions")
    if isinstance(expressions, list):
        bare["matchExpressions"] = list(_bare_expressions(expressions))
    return bare


def _bare_expressions(expressions: list[Any]) -> Iterator[Any]:
    for entry in expressions:
        if isinstance(entry, dict) and isinstance(entry.get("key"), str):
            yield {**entry, "key": _bare(entry["key"])}
        else:
            yield entry


def _bare(key: str) -> str:
    return next((key.removeprefix(source) for source in _SOURCES if key.startswith(source)), key)
