"""spidernet's egressgateway: EgressGateway, EgressPolicy and EgressClusterPolicy of egressgateway.spidernet.io."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from egress_router.manifests.egress_ips.destinations import directly
from egress_router.manifests.egress_ips.fields import (
    addresses,
    egress_address,
    holder,
    is_name,
    is_value,
    meant,
    networks,
    selector,
    unknown,
)
from egress_router.manifests.egress_ips.pools import pool
from egress_router.manifests.egress_ips.values import EVERY_NODE, Gathered, Group, named
from egress_router.manifests.objects import ManifestObject, as_list, as_mapping, as_text

_POLICY = ("egressGatewayName", "egressIP", "appliedTo", "destSubnet", "priority")


def gateway(item: ManifestObject, into: Gathered) -> None:
    """The addresses of a gateway become a pool; its nodes are taken by ``policy``."""
    unknown(item, "spec", item.spec, ("ippools", "ranges", "nodeSelector", "clusterDefault"), into)
    pools = as_mapping(item.spec.get("ippools") or item.spec.get("ranges"))
    listed = [pools.get(version) for version in ("ipv4", "ipv6")]
    entries = [entry for one in listed if isinstance(one, list) for entry in one if entry]
    pool(item, "spec.ippools", entries, into)
    if item.spec.get("clusterDefault") is True:
        into.lost(item.where, "spec.clusterDefault: every EgressIP names its addresses itself")


def policy(item: ManifestObject, gateways: Mapping[str, ManifestObject], into: Gathered) -> None:
    """One policy becomes one EgressIP with the addresses that it has now, on the nodes of its gateway."""
    spec = item.spec
    unknown(item, "spec", spec, _POLICY, into)
    applied = as_mapping(spec.get("appliedTo"))
    clusterwide = item.kind == "EgressClusterPolicy"
    known = ("podSelector", "podSubnet", *(("namespaceSelector",) if clusterwide else ()))
    unknown(item, "spec.appliedTo", applied, known, into)
    if applied.get("podSubnet"):
        into.lost(item.where, "spec.appliedTo.podSubnet: pods are selected by labels only; nothing is written for it")
        return
    if as_mapping(spec.get("egressIP")).get("useNodeIP") is True:
        into.lost(item.where, "spec.egressIP.useNodeIP: ours are addresses that no machine has; nothing is written")
        return
    name = item.name if clusterwide else f"{item.namespace}-{item.name}"
    if not is_name(name) or not (clusterwide or is_value(item.namespace)):
        into.lost(item.where, "its name and namespace cannot be those of an object of ours; nothing is written for it")
        return
    pods = selector(item, "spec.appliedTo.podSelector", applied.get("podSelector"), into)
    namespaces = (
        selector(item, "spec.appliedTo.namespaceSelector", applied.get("namespaceSelector"), into)
        if clusterwide
        else named(item.namespace)
    )
    only = networks(item, "spec.destSubnet", spec.get("destSubnet"), into)
    gateway_name = as_text(spec.get("egressGatewayName"))
    own = gateways.get(gateway_name)
    if own is None:
        into.lost(
            item.where,
            f"its EgressGateway {gateway_name or '(the default one)'} is not in these files, so"
            " which nodes may have its address is not known; nothing is written for it",
        )
        return
    nodes = selector(own, "spec.nodeSelector.selector", as_mapping(own.spec.get("nodeSelector")).get("selector"), into)
    if pods is None or namespaces is None or only is None or nodes is None:
        return
    found, present = _addresses(item, own, into)
    if not found:
        into.wrong(item.where, "no address was given to it; nothing is written for it")
        return
    around = directly(item, "spec.destSubnet", only, (), found, into)
    if around is None:
        return
    if spec.get("priority") is not None:
        into.changed(
            item.where, "spec.priority: of EgressIPs that select one pod the oldest counts, then the first name"
        )
    labels, annotations = meant(item, into)
    chosen = nodes if nodes.requirements else EVERY_NODE
    into.groups.append(Group(item.where, name, found, namespaces, pods, chosen, around, present, labels, annotations))


def _addresses(item: ManifestObject, own: ManifestObject, into: Gathered) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the addresses of a policy, and the node that has each: as its status and that of its gateway say."""
    status = as_mapping(item.raw.get("status"))
    node = holder(item, "status.node", status.get("node"), into)
    spec = as_mapping(item.spec.get("egressIP"))
    asked = [as_mapping(status.get("eip")).get(version) or spec.get(version) for version in ("ipv4", "ipv6")]
    found = addresses(item, "spec.egressIP", [one for one in asked if one not in (None, "")], into)
    for holding, has, policies in _held(own):
        if not found and (item.namespace, item.name) in policies:
            found = tuple(has)
        if not node and not set(found).isdisjoint(has):
            node = holder(own, "status.nodeList.name", holding, into)
    if found and not node:
        into.wrong(item.where, f"no node had {', '.join(found)}")
    return found, dict.fromkeys(found, node) if node else {}


def _held(own: ManifestObject) -> Iterator[tuple[str, list[str], set[tuple[str, str]]]]:
    """Yield what the status of a gateway tells: node, addresses, and the policies (namespace, name) that use them."""
    for entry in as_list(as_mapping(own.raw.get("status")).get("nodeList")):
        for one in as_list(entry.get("epis")) or as_list(entry.get("eips")):
            texts = [as_text(one.get(version)) for version in ("ipv4", "ipv6")]
            has = [address for text in texts if (address := egress_address(text)) is not None]
            policies = {
                (as_text(policy.get("namespace")), as_text(policy.get("name")))
                for policy in as_list(one.get("policies"))
            }
            yield as_text(entry.get("name")), has, policies
