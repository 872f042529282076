"""Our own objects, of the API or of a state directory: they come out as they are, without what the cluster adds."""

from __future__ import annotations

from egress_router.manifests.egress_ips.fields import (
    addresses,
    egress_address,
    holder,
    leaves_with_node_ip,
    meant,
    networks,
    selector,
    unknown,
    usable_name,
)
from egress_router.manifests.egress_ips.values import Gathered, Group
from egress_router.manifests.objects import ManifestObject, as_list, as_mapping, as_text

GROUP = "egress-router.io"


def egress_ip(item: ManifestObject, into: Gathered) -> None:
    """Take an EgressIP, and from its status who has which address."""
    spec = item.spec
    if spec.get("pool"):
        into.lost(item.where, "spec.pool: the pool gives it addresses; nothing is written for it, apply it as it is")
        return
    known = ("egressIPs", "namespaceSelector", "podSelector", "egressNodeSelector", "destinations", "whenUnavailable")
    unknown(item, "spec", spec, known, into)
    destinations = as_mapping(spec.get("destinations"))
    unknown(item, "spec.destinations", destinations, ("except",), into)
    namespaces = selector(item, "spec.namespaceSelector", spec.get("namespaceSelector"), into)
    pods = selector(item, "spec.podSelector", spec.get("podSelector"), into)
    nodes = selector(item, "spec.egressNodeSelector", spec.get("egressNodeSelector"), into)
    around = networks(item, "spec.destinations.except", destinations.get("except"), into)
    found = addresses(item, "spec.egressIPs", spec.get("egressIPs"), into)
    if namespaces is None or pods is None or nodes is None or around is None or not usable_name(item, into):
        return
    if not found:
        into.wrong(item.where, "has no usable egress IP; nothing is written for it")
        return
    present = {}
    for entry in as_list(as_mapping(item.raw.get("status")).get("items")):
        address = egress_address(as_text(entry.get("egressIP")))
        node = holder(item, "status.items.node", entry.get("node"), into)
        if address in found and node:
            present[str(address)] = node
    labels, annotations = meant(item, into)
    chosen = nodes if nodes.requirements else None
    group = Group(item.where, item.name, found, namespaces, pods, chosen, around, present, labels, annotations)
    group.node_ip = leaves_with_node_ip(item, "spec.whenUnavailable", spec.get("whenUnavailable"), into)
    into.groups.append(group)


def egress_ip_pool(item: ManifestObject, into: Gathered) -> None:
    """Take an EgressIPPool."""
    unknown(item, "spec", item.spec, ("ipRanges",), into)
    ranges = [
        {key: text for key in ("cidr", "start", "end") if (text := as_text(entry.get(key)))}
        for entry in as_list(item.spec.get("ipRanges"))
    ]
    if ranges and usable_name(item, into):
        into.pools[item.name] = ranges
        into.same(item.where, f"EgressIPPool {item.name}")


def egress_node(item: ManifestObject, into: Gathered) -> None:
    """Take what an administrator has written into an EgressNode."""
    spec = item.spec
    unknown(item, "spec", spec, ("egressIPs", "egressCIDRs", "capacity"), into)
    listed = addresses(item, "spec.egressIPs", spec.get("egressIPs"), into)
    cidrs = networks(item, "spec.egressCIDRs", spec.get("egressCIDRs"), into) or ()
    capacity = as_mapping(spec.get("capacity")).get("ip")
    if not usable_name(item, into) or not (listed or cidrs or capacity is not None):
        return
    part = into.node(item.name)
    part.egress_ips += listed
    part.egress_cidrs += cidrs
    if isinstance(capacity, int) and not isinstance(capacity, bool) and capacity >= 0:
        part.capacity = capacity


def egress_ip_assignment(item: ManifestObject, into: Gathered) -> None:
    """Take the node of an address."""
    found = addresses(item, "spec.egressIP", item.spec.get("egressIP"), into)
    node = holder(item, "spec.node", item.spec.get("node"), into)
    if found and node:
        into.present.setdefault(found[0], node)
