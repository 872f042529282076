"""kube-router on a node: pod networks routed by BGP, NetworkPolicy enforced. Services stay kube-proxy's."""

from __future__ import annotations

from pathlib import Path

from lab.kubernetes import network
from lab.kubernetes.machines import Machine, Service

CONFLIST = "10-kuberouter.conflist"


def service(node: Machine, program: Path, kubeconfig: Path, log: Path) -> Service:
    """Return kube-router as a program of a node; it completes the CNI configuration that it finds."""
    return Service(
        node,
        "kube-router",
        [
            str(program),
            "--run-router",
            "--run-firewall",
            "--run-service-proxy=false",
            "--enable-overlay=false",
            "--enable-ipv6=false",
            f"--hostname-override={node.name}",
            "--cluster-asn=64512",
            "--health-port=0",
            "--auto-mtu=false",
            f"--kubeconfig={kubeconfig}",
        ],
        log,
        {"KUBE_ROUTER_CNI_CONF_FILE": f"{network.CNI_FOLDER}/{CONFLIST}"},
    )
