"""OVN-Kubernetes: EgressIP of k8s.ovn.org/v1."""

from __future__ import annotations

from egress_router.kubernetes.selectors import Requirement, Selector
from egress_router.manifests.egress_ips.fields import (
    addresses,
    egress_address,
    holder,
    meant,
    selector,
    unknown,
    usable_name,
)
from egress_router.manifests.egress_ips.values import Gathered, Group
from egress_router.manifests.objects import ManifestObject, as_list, as_mapping, as_text

#: Nodes with this label, whatever its value, may hold egress IPs.
ASSIGNABLE = "k8s.ovn.org/egress-assignable"
_MARK = "k8s.ovn.org/"


def egress_ip(item: ManifestObject, into: Gathered) -> None:
    """One EgressIP becomes one of ours, on the same nodes."""
    unknown(item, "spec", item.spec, ("egressIPs", "namespaceSelector", "podSelector"), into)
    namespaces = selector(item, "spec.namespaceSelector", item.spec.get("namespaceSelector"), into)
    pods = selector(item, "spec.podSelector", item.spec.get("podSelector"), into)
    found = addresses(item, "spec.egressIPs", item.spec.get("egressIPs"), into)
    if namespaces is None or pods is None or not usable_name(item, into):
        return
    if not found:
        into.wrong(item.where, "has no usable egress IP; nothing is written for it")
        return
    present: dict[str, str] = {}
    for entry in as_list(as_mapping(item.raw.get("status")).get("items")):
        address = egress_address(as_text(entry.get("egressIP")))
        node = holder(item, "status.items.node", entry.get("node"), into)
        if address in found and node:
            present.setdefault(str(address), node)
    for address in found:
        if address not in present:
            into.wrong(item.where, f"no node had {address}")
    labels, annotations = meant(item, into)
    for key in [key for key in annotations if key.startswith(_MARK)]:
        into.changed(item.where, f"metadata.annotations {key} is OVN-Kubernetes' own, and not written")
        del annotations[key]
    nodes = Selector((Requirement(ASSIGNABLE, "Exists"),))
    into.groups.append(Group(item.where, item.name, found, namespaces, pods, nodes, (), present, labels, annotations))
    into.changed("EgressIP", f"nodes with the label {ASSIGNABLE} go on holding addresses; others need it too")
    into.changed(
        "EgressIP",
        "of several addresses a pod keeps one of each family; OVN-Kubernetes took another for each connection",
    )
