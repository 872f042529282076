"""All that is found about a cluster, and what it comes to. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from egress_router.egressip.fit import cluster_networks, container_network, host_ports, nodes, rivals
from egress_router.egressip.fit.look import DAEMON_SETS, NODES, config_map
from egress_router.egressip.fit.values import Finding, Level, Picture, text

#: Kinds of which something is said where they are judged.
_SAID = {NODES, DAEMON_SETS}


def judge(
    picture: Picture, networks: Collection[str], addresses: Collection[str], ports: Mapping[tuple[str, int], str]
) -> list[Finding]:
    """Return the findings in the order in which they are shown. ``networks`` are those that shall be inside,
    ``addresses`` egress IPs to come, ``ports`` what ours listen on.
    """
    found = [nodes.server(picture)]
    found += container_network.findings(picture)
    found += [*_services(picture)]
    found += nodes.findings(picture)
    found += cluster_networks.findings(picture, networks)
    found += rivals.findings(picture, addresses)
    found += host_ports.findings(picture, ports)
    found += _not_in_the_api(picture)
    for path, why in picture.unseen.items():
        if path not in _SAID:
            found.append(Finding(Level.UNSEEN, "not looked at", f"{path}: {why}"))
    return found


def fits(found: Collection[Finding]) -> bool | None:
    """Return whether ours can work there; None where that was not found out."""
    levels = {finding.level for finding in found}
    if Level.REFUSED in levels:
        return False
    return None if Level.UNKNOWN in levels else True


def _services(picture: Picture) -> list[Finding]:
    """Say how host processes reach the API's Service, which an agent does before kube-proxy runs, too."""
    check = "kube-proxy"
    names = {text(item, "metadata", "name") for item in picture.of(DAEMON_SETS)}
    kubelets = {text(item, "status", "nodeInfo", "kubeletVersion") for item in picture.of(NODES)}
    if any(name.startswith("kube-proxy") for name in names):
        config = text(config_map(picture, "kube-proxy"), "config.conf")
        mode = next(
            (line.partition(":")[2].strip(" \"'") for line in config.splitlines() if line.startswith("mode:")), ""
        )
        return [Finding(Level.OK, check, f"as a DaemonSet{f' ({mode})' if mode else ''}")]
    if any("+k3s" in version or "+rke2" in version for version in kubelets):
        return [Finding(Level.OK, check, "part of K3s or RKE2")]
    if DAEMON_SETS in picture.unseen:
        return []
    advice = "where the address of the Service kubernetes does not work from nodes, set EGRESS_API_SERVER on the agents"
    return [Finding(Level.WARNING, check, "no DaemonSet of this name", advice)]


def _not_in_the_api(picture: Picture) -> list[Finding]:
    """Say what no object tells, and how to look at it."""
    found = [
        Finding(
            Level.UNSEEN,
            "kernel modules",
            "no object tells of them",
            "on a node: egress-router egressip install --check --this-machine",
        ),
        Finding(
            Level.UNSEEN,
            "rp_filter",
            "no object tells of it",
            "on a node: egress-router egressip install --check --this-machine"
            + ("; Calico wants net.ipv4.conf.all.rp_filter to be 0 or 1" if _calico(picture) else ""),
        ),
    ]
    if any(group.startswith("security.openshift.io/") for group in picture.groups):
        advice = "kubectl apply -k deploy/egress-ips/overlays/openshift, which has it"
        found.append(Finding(Level.OK, "platform", "OpenShift: agents need a SecurityContextConstraints", advice))
    return found


def _calico(picture: Picture) -> bool:
    return container_network.has(picture, "Calico")
