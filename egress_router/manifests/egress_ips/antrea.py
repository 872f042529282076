"""Antrea: Egress and ExternalIPPool of crd.antrea.io (v1beta1, and v1alpha2 with the same fields)."""

from __future__ import annotations

from collections.abc import Mapping

from egress_router.kubernetes.selectors import Selector
from egress_router.manifests.egress_ips.fields import (
    addresses,
    egress_address,
    holder,
    meant,
    selector,
    unknown,
    usable_name,
)
from egress_router.manifests.egress_ips.pools import pool
from egress_router.manifests.egress_ips.values import EVERY_NODE, Gathered, Group
from egress_router.manifests.objects import ManifestObject, as_list, as_mapping, as_text

_SPEC = ("appliedTo", "egressIP", "egressIPs", "externalIPPool", "externalIPPools", "bandwidth")


def external_ip_pool(item: ManifestObject, into: Gathered) -> None:
    """A pool becomes one of ours; its nodes are taken by ``egress``."""
    unknown(item, "spec", item.spec, ("ipRanges", "nodeSelector", "subnetInfo"), into)
    pool(item, "spec.ipRanges", as_list(item.spec.get("ipRanges")), into)
    subnet = as_mapping(item.spec.get("subnetInfo"))
    if subnet:
        vlan = as_text(subnet.get("vlan"))
        what = f"addresses are on VLAN {vlan}" if vlan not in ("", "0") else "addresses have a gateway of their own"
        into.lost(item.where, f"spec.subnetInfo: {what}, and ours are of a subnet of the nodes' interface")


def egress(item: ManifestObject, pools: Mapping[str, ManifestObject], into: Gathered) -> None:
    """One Egress becomes one EgressIP with the address that it has now. Without a pool it stays on its node."""
    spec = item.spec
    unknown(item, "spec", spec, _SPEC, into)
    if as_mapping(spec.get("bandwidth")):
        into.lost(item.where, "spec.bandwidth: ours limits no rate")
    applied = as_mapping(spec.get("appliedTo"))
    unknown(item, "spec.appliedTo", applied, ("namespaceSelector", "podSelector"), into)
    if set(applied) - {"namespaceSelector", "podSelector"}:
        # What else selects pods there may be all of it.
        into.lost(item.where, "spec.appliedTo selects by more than labels; nothing is written for it")
        return
    if applied.get("namespaceSelector") is None and applied.get("podSelector") is None:
        into.wrong(item.where, "spec.appliedTo selects no pod; nothing is written for it")
        return
    namespaces = selector(item, "spec.appliedTo.namespaceSelector", applied.get("namespaceSelector"), into)
    pods = selector(item, "spec.appliedTo.podSelector", applied.get("podSelector"), into)
    if namespaces is None or pods is None or not usable_name(item, into):
        return
    status = as_mapping(item.raw.get("status"))
    asked = [spec.get("egressIP"), *(spec["egressIPs"] if isinstance(spec.get("egressIPs"), list) else [])]
    found = addresses(item, "spec.egressIP", [one for one in asked if one not in (None, "")], into)
    effective = egress_address(as_text(status.get("egressIP")))
    if not found and effective is not None:
        found = (effective,)
    if not found:
        into.wrong(item.where, "no address was given to it; nothing is written for it")
        return
    named = [spec.get("externalIPPool"), *(spec.get("externalIPPools") or [])]
    names = [text for text in map(as_text, named) if text]
    node = holder(item, "status.egressNode", status.get("egressNode"), into)
    has = {(effective or found[0]): node} if node else {}
    if not node:
        into.wrong(item.where, f"no node had {', '.join(found)}")
    labels, annotations = meant(item, into)
    group = Group(item.where, item.name, found, namespaces, pods, present=has, labels=labels, annotations=annotations)
    if not names:
        if not _by_hand(item, group, node, into):
            return
    else:
        nodes = _pool_nodes(item, names, pools, into)
        if nodes is None:
            return
        group.nodes = nodes
    into.groups.append(group)


def _by_hand(item: ManifestObject, group: Group, node: str, into: Gathered) -> bool:
    """Put the addresses of an Egress without a pool on the node that has them; return whether that can be."""
    if owner := next((one.name for one in into.machines.values() if not one.addresses.isdisjoint(group.addresses)), ""):
        into.lost(
            item.where,
            f"spec.egressIP is node {owner}'s own address, and ours are addresses that no machine has; nothing is"
            " written for it",
        )
        return False
    if not node:
        into.lost(item.where, "without a pool and a node that has its address nobody would get it")
        return False
    part = into.node(node)
    part.egress_ips += [address for address in group.addresses if address not in part.egress_ips]
    group.present = {}
    into.changed(
        item.where,
        f"take {', '.join(group.addresses)} off the interface of node {node}, where somebody has put it: the agent does"
        " that now (spec.egressIPs of its EgressNode; it moves to no other node, as before)",
    )
    return True


def _pool_nodes(
    item: ManifestObject, names: list[str], pools: Mapping[str, ManifestObject], into: Gathered
) -> Selector | None:
    """Return which nodes may have the addresses of its pools; None, and a note, where that cannot be said."""
    missing = [name for name in names if name not in pools]
    if missing:
        into.lost(
            item.where,
            f"ExternalIPPool {', '.join(missing)} is not in these files, so which nodes may have its address is not"
            " known (add the output of `kubectl get externalippools -o yaml`); nothing is written for it",
        )
        return None
    chosen: dict[Selector, None] = {}
    for name in names:
        found = selector(pools[name], "spec.nodeSelector", pools[name].spec.get("nodeSelector"), into)
        if found is None:
            return None
        chosen[found if found.requirements else EVERY_NODE] = None
    if len(chosen) > 1:
        into.lost(
            item.where,
            "its pools choose their nodes by different labels, and an EgressIP has one egressNodeSelector; nothing is"
            " written for it",
        )
        return None
    return next(iter(chosen))
