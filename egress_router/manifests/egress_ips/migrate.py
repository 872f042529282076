"""Files of others' objects → the text of ours, and what is to be said about it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from egress_router.config.inputs import Problems, SourceText
from egress_router.errors import Problem
from egress_router.manifests.egress_ips import antrea, cilium, openshift_sdn, ours, ovn_kubernetes, spidernet
from egress_router.manifests.egress_ips.destinations import EVERYTHING
from egress_router.manifests.egress_ips.fields import egress_address
from egress_router.manifests.egress_ips.state_files import written_as_files
from egress_router.manifests.egress_ips.together import put_together
from egress_router.manifests.egress_ips.values import NAMESPACE_NAME, Gathered, Machine
from egress_router.manifests.egress_ips.write import written
from egress_router.manifests.objects import (
    ManifestObject,
    Objects,
    as_list,
    as_mapping,
    as_text,
    read_objects,
    texts,
)
from egress_router.manifests.values import Note

OVN, CILIUM, ANTREA, SPIDERNET = "k8s.ovn.org", "cilium.io", "crd.antrea.io", "egressgateway.spidernet.io"
#: Of API group and kind: what takes an object that needs no other one.
_TAKEN: Mapping[tuple[str, str], Callable[[ManifestObject, Gathered], None]] = {
    (OVN, "EgressIP"): ovn_kubernetes.egress_ip,
    (CILIUM, "CiliumEgressGatewayPolicy"): cilium.egress_gateway_policy,
    (ANTREA, "ExternalIPPool"): antrea.external_ip_pool,
    (SPIDERNET, "EgressGateway"): spidernet.gateway,
    (ours.GROUP, "EgressIP"): ours.egress_ip,
    (ours.GROUP, "EgressIPPool"): ours.egress_ip_pool,
    (ours.GROUP, "EgressNode"): ours.egress_node,
}
_NETWORK_POLICY = "says where pods may connect to: that is the task of a NetworkPolicy"
_PODS_THERE = "its gateways are pods with addresses of their own; egress IPs of ours are on nodes"
#: What is about egress too, and becomes nothing.
_TOLD = {
    "EgressNetworkPolicy": _NETWORK_POLICY,
    "EgressFirewall": _NETWORK_POLICY,
    "EgressQoS": "marks packets with a DSCP value; ours do not",
    "EgressService": "pods behind a Service leave with the address of its load balancer; ours have egress IPs alone",
    "CloudPrivateIPConfig": "has a cloud move an address to a node; another program must do that now, which"
    " EgressIPAssignment tells where",
    "UserDefinedNetwork": "egress IPs of ours are for pods of the cluster's default network",
    "ClusterUserDefinedNetwork": "egress IPs of ours are for pods of the cluster's default network",
    "IsovalentEgressGatewayPolicy": "is not known here; write an EgressIP for it by hand",
    "CiliumEgressNATPolicy": "is of Cilium before 1.12; have Cilium turn it into a CiliumEgressGatewayPolicy",
    "EgressGatewayPolicy": _PODS_THERE,
    "VpcEgressGateway": _PODS_THERE,
    "VpcNatGateway": _PODS_THERE,
    "IptablesEIP": _PODS_THERE,
    "IptablesSnatRule": _PODS_THERE,
    "OvnEip": _PODS_THERE,
    "OvnSnatRule": _PODS_THERE,
    "EgressGateway": _PODS_THERE,
}
#: What the other project's programs keep for themselves.
_STATE = {
    (SPIDERNET, "EgressNode"),
    (SPIDERNET, "EgressTunnel"),
    (SPIDERNET, "EgressEndpointSlice"),
    (SPIDERNET, "EgressClusterEndpointSlice"),
}
_READ = ("Node", "Namespace")
EXPECTED = (
    "NetNamespace and HostSubnet of OpenShift SDN, EgressIP of OVN-Kubernetes, CiliumEgressGatewayPolicy, Egress of"
    " Antrea, or EgressPolicy and EgressClusterPolicy of spidernet, as `kubectl get KIND -o yaml` prints them"
)


def migrate_egress_ips(
    files: Iterable[SourceText], problems: Problems, *, to_files: bool = False
) -> tuple[str, list[Note]]:
    """Return the text of our objects, and what is said of the old ones. What cannot be read at all is among the
    ``problems``, and what was passed over among their warnings. ``to_files``: objects for agents on files.
    """
    objects = read_objects(files, problems)
    into = Gathered(_machines(objects))
    taken = [item for item in objects if _take(item, objects, into)]
    others: dict[tuple[str, str], int] = {}
    chosen = set(map(id, taken))
    for item in objects:
        if id(item) not in chosen and item.kind not in _READ:
            others[item.file, item.kind] = others.get((item.file, item.kind), 0) + 1
    for (file, kind), count in others.items():
        problems.warn(file, None, "", f"{count} of kind {kind}: passed over, not about egress IPs")
    if not taken and not problems.errors:
        names = ", ".join(dict.fromkeys(item.file for item in objects)) or "the files"
        problems.errors.append(Problem(names, None, "", "has no object about egress IPs", EXPECTED))
    if not to_files and openshift_sdn.isolates(objects.of_kind("NetNamespace")):
        into.changed("NetNamespace", "netid keeps namespaces apart: that is the task of NetworkPolicies")
    if any(machine.dual_stack for machine in into.machines.values()):
        _leave_missing_families(into)
    groups = put_together(into)
    text = written_as_files(groups, _spaces(objects), into) if to_files else written(groups, into)
    return text, into.notes


def _take(item: ManifestObject, objects: Objects, into: Gathered) -> bool:
    """Take one object; return whether it is about egress IPs."""
    group = as_text(item.raw.get("apiVersion")).rpartition("/")[0]
    take = _TAKEN.get((group, item.kind))
    if take is not None:
        take(item, into)
    elif item.kind == "NetNamespace":
        openshift_sdn.net_namespace(item, into)
    elif item.kind == "HostSubnet":
        recorded = any(_is_record(one) for one in objects.of_kind("EgressIPAssignment"))
        openshift_sdn.host_subnet(item, into, recorded=recorded)
    elif item.kind == "EgressIPAssignment":
        (openshift_sdn.recorded_assignment if _is_record(item) else ours.egress_ip_assignment)(item, into)
    elif (group, item.kind) == (ANTREA, "Egress"):
        antrea.egress(item, _named(objects, ANTREA, "ExternalIPPool"), into)
    elif group == SPIDERNET and item.kind in ("EgressPolicy", "EgressClusterPolicy"):
        spidernet.policy(item, _named(objects, SPIDERNET, "EgressGateway"), into)
    elif (group, item.kind) == (SPIDERNET, "EgressClusterInfo"):
        into.changed(item.where, "its networks belong into the ConfigMap egress-ips, cluster-networks")
    elif (group, item.kind) in _STATE:
        pass
    elif item.kind in _TOLD:
        into.lost(item.where, _TOLD[item.kind])
    elif item.kind in ("EgressIP", "Egress"):
        api = as_text(item.raw.get("apiVersion"))
        into.lost(item.where, f'its apiVersion "{api}" is none of those that are known here')
    else:
        return False
    return True


def _is_record(item: ManifestObject) -> bool:
    """Return whether an EgressIPAssignment is that of a state directory, which has all addresses."""
    return "assignment" in item.raw


def _named(objects: Objects, group: str, kind: str) -> dict[str, ManifestObject]:
    return {
        item.name: item
        for item in objects.of_kind(kind)
        if as_text(item.raw.get("apiVersion")).rpartition("/")[0] == group
    }


def _spaces(objects: Objects) -> dict[str, dict[str, str]]:
    """Return the labels of the namespaces that the files have."""
    return {
        item.name: {**texts(item.metadata.get("labels")), NAMESPACE_NAME: item.name}
        for item in objects.of_kind("Namespace")
    }


def _machines(objects: Objects) -> dict[str, Machine]:
    found = {}
    for item in objects.of_kind("Node"):
        status = as_mapping(item.raw.get("status"))
        told = [as_text(entry.get("address")) for entry in as_list(status.get("addresses"))]
        own = frozenset(address for text in told if (address := egress_address(text)) is not None)
        listed = item.spec.get("podCIDRs")
        ranges = [text for text in (listed if isinstance(listed, list) else []) if isinstance(text, str)]
        dual = any(":" in text for text in [*own, *ranges]) and any(":" not in text for text in [*own, *ranges])
        host_ip = next((address for text in told if (address := egress_address(text)) is not None), "")
        found[item.name] = Machine(item.name, texts(item.metadata.get("labels")), own, dual, host_ip)
    return found


def _leave_missing_families(into: Gathered) -> None:
    """Leave the IP version as it is of which a group has no address, in a cluster that has both: with ours it would be
    dropped, and elsewhere it leaves with the node's address.
    """
    for group in into.groups:
        for version in sorted({4, 6} - {6 if ":" in address else 4 for address in group.addresses}):
            if EVERYTHING[version] in group.directly:
                continue
            group.directly = (*group.directly, EVERYTHING[version])
            into.changed(
                group.where,
                f"IPv{version} goes on leaving with the node's address, since it has no egress IP of it; take"
                f" {EVERYTHING[version]} out of spec.destinations.except to have it dropped",
            )
