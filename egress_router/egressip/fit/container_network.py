"""Which container network there is, and whether pods' packets pass by the host's netfilter. Pure.

An egress IP is a translation in the netfilter of a node. Data paths in eBPF or Open vSwitch that take packets from a
pod to the wire without it cannot work with ours, and mostly have egress IPs of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from egress_router.egressip.fit.look import (
    CALICO_INSTALLATIONS,
    DAEMON_SETS,
    FELIX,
    NODES,
    OPENSHIFT_NETWORK,
    config_map,
)
from egress_router.egressip.fit.values import Finding, Level, Picture, entries, part, text

CHECK = "container network"
_NOT_TRIED = "not tried with this project; see that pods' sources are right before you rely on it"


@dataclass(frozen=True, slots=True)
class Network:
    """A container network, what tells that it is there, and what follows."""

    name: str
    #: Names of its DaemonSets, whatever their namespace.
    daemon_sets: frozenset[str]
    #: What annotations begin with that it gives Nodes.
    annotations: tuple[str, ...]
    judge: Callable[[Picture], Finding]


def findings(picture: Picture) -> list[Finding]:
    """Return what is found about the container network, at least one finding."""
    unseen = [path for path in (DAEMON_SETS, NODES) if path in picture.unseen]
    found = [network.judge(picture) for network in NETWORKS if _is_there(network, picture)]
    if found:
        return found
    if unseen:
        why = "; ".join(f"{path}: {picture.unseen[path]}" for path in unseen)
        return [Finding(Level.UNKNOWN, CHECK, f"could not be looked at ({why})", "rights to list daemonsets and nodes")]
    return [Finding(Level.WARNING, CHECK, "none that is known here", _NOT_TRIED)]


def has(picture: Picture, name: str) -> bool:
    """Return whether a network of this name is there."""
    return any(network.name == name and _is_there(network, picture) for network in NETWORKS)


def _is_there(network: Network, picture: Picture) -> bool:
    for item in picture.of(DAEMON_SETS):
        if text(item, "metadata", "name") in network.daemon_sets and not _runs_nowhere(item):
            return True
    openshift = {text(item, "status", "networkType") for item in picture.of(OPENSHIFT_NETWORK[0])}
    if _OPENSHIFT.get(network.name) in openshift:
        return True
    # Of a network that was replaced annotations stay: they count where no DaemonSet tells (K3s has Flannel inside).
    return not _known_daemon_sets(picture) and any(
        key.startswith(network.annotations)
        for node in picture.of(NODES)
        for key in part(node, "metadata", "annotations")
    )


def _known_daemon_sets(picture: Picture) -> bool:
    known = {name for network in NETWORKS for name in network.daemon_sets}
    return any(text(item, "metadata", "name") in known and not _runs_nowhere(item) for item in picture.of(DAEMON_SETS))


def _runs_nowhere(item: Mapping[str, Any]) -> bool:
    """Return whether no node is selected: how some networks are switched off."""
    status = part(item, "status")
    return status.get("observedGeneration") is not None and status.get("desiredNumberScheduled") == 0


def _version(picture: Picture, *names: str) -> str:
    """Return the tag of the image of a DaemonSet, after a blank; "" without one."""
    for item in picture.of(DAEMON_SETS):
        if text(item, "metadata", "name") in names:
            for container in entries(item, "spec", "template", "spec", "containers"):
                tag = text(container, "image").partition("@")[0].rpartition("/")[2].partition(":")[2]
                return f" {tag.lstrip('v')}" if tag else ""
    return ""


def _cilium(picture: Picture) -> Finding:
    settings = config_map(picture, "cilium-config")
    name = f"Cilium{_version(picture, 'cilium', 'anetd')}"
    own = "CiliumEgressGatewayPolicy (egressGateway.enabled, bpf.masquerade, kubeProxyReplacement in Helm's values)"
    by_host = settings.get("enable-host-legacy-routing") == "true" and settings.get("enable-bpf-masquerade") != "true"
    chained = settings.get("cni-chaining-mode") not in (None, "", "none", "portmap")
    if by_host or chained:
        how = "chained to another network" if chained else "with host-legacy-routing, without bpf masquerading"
        return Finding(Level.WARNING, CHECK, f"{name}, {how}: packets pass by netfilter", _NOT_TRIED)
    advice = f"use {own}; or have packets pass by netfilter: bpf.hostLegacyRouting=true and bpf.masquerade=false"
    return Finding(Level.REFUSED, CHECK, f"{name}: its eBPF takes packets past the host's netfilter", advice)


def _calico(picture: Picture) -> Finding:
    name = f"Calico{_version(picture, 'calico-node', 'canal', 'rke2-canal')}"
    dataplane, told = "", False
    for item in picture.of(CALICO_INSTALLATIONS[0]):
        computed = text(item, "status", "computed", "calicoNetwork", "linuxDataplane")
        dataplane = computed or text(item, "spec", "calicoNetwork", "linuxDataplane") or dataplane
        told = told or bool(dataplane)
    felix = any(part(item, "spec").get("bpfEnabled") is True for item in picture.of(FELIX[0]))
    variables = dict(_variables(picture, "calico-node", "canal", "rke2-canal"))
    if felix or variables.get("FELIX_BPFENABLED", "").lower() in ("true", "1", "t", "yes", "y"):
        dataplane = "BPF"
    if any(text(item, "metadata", "name") == "calico-vpp-node" for item in picture.of(DAEMON_SETS)):
        dataplane = "VPP"
    if dataplane.upper() in ("BPF", "VPP"):
        advice = "linuxDataplane: Iptables or Nftables in its Installation (bpfEnabled: false in FelixConfiguration)"
        return Finding(
            Level.REFUSED, CHECK, f"{name} with the {dataplane.upper()} data plane, past the host's netfilter", advice
        )
    unseen = [path for path in (FELIX[0], CALICO_INSTALLATIONS[0]) if path in picture.unseen]
    if unseen and not (told and dataplane.upper() in ("IPTABLES", "NFTABLES")):
        advice = "rights to list felixconfigurations and installations; eBPF would be refused"
        return Finding(Level.UNKNOWN, CHECK, f"{name}, its data plane could not be looked at", advice)
    return Finding(Level.OK, CHECK, f"{name} with {dataplane.lower() or 'iptables or nftables'}")


def _variables(picture: Picture, *names: str) -> Iterator[tuple[str, str]]:
    for item in picture.of(DAEMON_SETS):
        if text(item, "metadata", "name") in names:
            for container in entries(item, "spec", "template", "spec", "containers"):
                for variable in entries(container, "env"):
                    yield text(variable, "name"), text(variable, "value")


def _flannel(picture: Picture) -> Finding:
    backend = flannel_backend(picture)
    how = text(backend, "Type") or next(
        (
            value
            for node in picture.of(NODES)
            for key, value in part(node, "metadata", "annotations").items()
            if key == "flannel.alpha.coreos.com/backend-type" and isinstance(value, str)
        ),
        "",
    )
    version = _version(picture, "kube-flannel-ds", "kube-flannel")
    return Finding(Level.OK, CHECK, f"Flannel{version}" + (f" ({how})" if how else ""))


def flannel_backend(picture: Picture) -> Mapping[str, Any]:
    """Return ``Backend`` of Flannel's net-conf.json, empty where it was not seen."""
    return part(flannel_settings(picture), "Backend")


def flannel_settings(picture: Picture) -> Mapping[str, Any]:
    """Return Flannel's net-conf.json, empty where it was not seen."""
    for name in ("kube-flannel-cfg", "canal-config", "rke2-canal-config"):
        try:
            found = json.loads(text(config_map(picture, name), "net-conf.json") or "{}")
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found:
            return found
    return {}


def _fixed(level: Level, found: str, advice: str = "") -> Callable[[Picture], Finding]:
    return lambda _picture: Finding(level, CHECK, found, advice)


_OVN = "its Open vSwitch takes packets past the host's netfilter"
_CLOUD = "pods have addresses of the cloud's network"
#: networkType of OpenShift's Network object.
_OPENSHIFT = {"OVN-Kubernetes": "OVNKubernetes", "OpenShift SDN": "OpenShiftSDN"}
NETWORKS = (
    Network("Cilium", frozenset({"cilium", "anetd"}), ("network.cilium.io/", "io.cilium.network."), _cilium),
    Network(
        "OVN-Kubernetes",
        frozenset({"ovnkube-node", "ovnkube-single-node-zone"}),
        ("k8s.ovn.org/",),
        _fixed(Level.REFUSED, f"OVN-Kubernetes: {_OVN}", "use its own EgressIP (k8s.ovn.org/v1)"),
    ),
    Network(
        "Kube-OVN",
        frozenset({"kube-ovn-cni", "ovs-ovn"}),
        ("ovn.kubernetes.io/",),
        _fixed(Level.REFUSED, f"Kube-OVN: {_OVN}", "use its own VpcEgressGateway or VpcNatGateway"),
    ),
    Network(
        "Antrea",
        frozenset({"antrea-agent"}),
        ("node.antrea.io/",),
        _fixed(Level.WARNING, "Antrea", f"it has an Egress of its own (crd.antrea.io); ours is {_NOT_TRIED}"),
    ),
    Network("Calico", frozenset({"calico-node", "canal", "rke2-canal"}), ("projectcalico.org/",), _calico),
    Network(
        "Flannel",
        frozenset({"kube-flannel-ds", "kube-flannel", "canal", "rke2-canal"}),
        ("flannel.alpha.coreos.com/",),
        _flannel,
    ),
    Network(
        "kube-router",
        frozenset({"kube-router"}),
        ("kube-router.io/",),
        lambda picture: Finding(Level.OK, CHECK, f"kube-router{_version(picture, 'kube-router')}"),
    ),
    Network(
        "OpenShift SDN",
        frozenset({"sdn"}),
        (),
        _fixed(Level.WARNING, "OpenShift SDN", "it has egress IPs of its own; have one of both give them"),
    ),
    Network("kindnet", frozenset({"kindnet"}), (), _fixed(Level.OK, "kindnet")),
    Network("Weave Net", frozenset({"weave-net"}), (), _fixed(Level.WARNING, "Weave Net", _NOT_TRIED)),
    Network("AWS VPC CNI", frozenset({"aws-node"}), (), _fixed(Level.WARNING, f"AWS VPC CNI: {_CLOUD}", _NOT_TRIED)),
    Network(
        "Azure CNI",
        frozenset({"azure-cns", "azure-cni-networkmonitor"}),
        (),
        _fixed(Level.WARNING, f"Azure CNI: {_CLOUD}", _NOT_TRIED),
    ),
)
