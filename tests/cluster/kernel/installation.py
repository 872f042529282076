"""Egress IPs as a person installs them in a cluster (`kubectl apply -k deploy/egress-ips`), with client pods."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lab import client
from lab.addressing import parse
from lab.kubernetes.api_server import SERVICES
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.machines import CHECKOUT
from lab.kubernetes.outside import PodHost
from lab.kubernetes.plan import LAN4, LAN6, PODS4, PODS6
from lab.process import CommandFailed
from tests.support.products import client_pod

SPACE = "egress-router"
ECHO, ECHO6 = "203.0.113.25", "2001:db8:113::25"
FIRST, FIRST6, SECOND = "192.0.2.45", "2001:db8:2::45", "192.0.2.54"
NODES = {"node-1": "192.0.2.11", "node-2": "192.0.2.12", "node-3": "192.0.2.13"}
HOLDERS = ("node-2", "node-3")


class EgressIPs:
    """The installation in a cluster: with ``clients`` a pod on each node that is selected, and one that is not."""

    #: Which of deploy/egress-ips/components are installed, by their names.
    components: tuple[str, ...] = ()

    def __init__(self, cluster: Cluster, *, clients: bool = True) -> None:
        self.cluster = cluster
        self.before = {name: traces(self, name) for name in NODES}
        self.install()
        cluster.kubectl("label", "nodes", *HOLDERS, "egress-router.io/egress-assignable=")
        if clients:
            self._make_clients()

    def _make_clients(self) -> None:
        cluster = self.cluster
        for name in ("shop", "other"):
            cluster.kubectl("create", "namespace", name)
        cluster.kubectl("label", "namespace", "shop", "env=shop")
        cluster.apply([client_pod(f"client-{node}", node, "shop") for node in NODES])
        cluster.apply([client_pod("client", "node-1", "other")])
        cluster.kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")

    def overlay(self) -> Path:
        """Write what a person changes before installing: the cluster's networks, and which components there are."""
        folder = self.cluster.machines.files / "overlay"
        folder.mkdir(exist_ok=True)
        networks = ",".join(map(str, (PODS4, PODS6, *SERVICES, LAN4, LAN6)))
        settings = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "egress-ips", "namespace": SPACE},
            "data": {"cluster-networks": networks},
        }
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(CHECKOUT / "deploy/egress-ips", folder)],
            "components": [
                os.path.relpath(CHECKOUT / "deploy/egress-ips/components" / name, folder) for name in self.components
            ],
            "patches": [{"path": "settings.yaml"}],
        }
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return folder

    def install(self) -> None:
        """As docs/egress-ips-kubernetes.md has it, with strict validation."""
        self.cluster.kubectl("apply", "--validate=strict", "-k", str(self.overlay()))
        for what in ("daemonset/egress-router-node", "deployment/egress-router-controller"):
            try:
                self.kubectl("rollout", "status", what, "--timeout=90s")
            except CommandFailed as error:
                raise AssertionError(f"{error}\n{self.story()}") from error

    def kubectl(self, *arguments: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run kubectl in the installation's namespace."""
        return self.cluster.kubectl("-n", SPACE, *arguments, check=check, timeout=timeout)

    def story(self) -> str:
        """Return what a person would look at."""
        parts = [self.kubectl("get", "pods", "-o", "wide", check=False)]
        parts.append(self.kubectl("describe", "pods", check=False))
        labels = "app.kubernetes.io/name=egress-router"
        parts.append(self.kubectl("logs", "-l", labels, "--prefix", "--tail=30", check=False))
        parts.append(self.cluster.kubectl("describe", "egressips", check=False))
        return "\n".join(parts)

    def egress_ip(self, *addresses: str) -> None:
        """Apply the EgressIP of the namespace shop, and wait until it is Ready with all addresses."""
        spec = {"egressIPs": list(addresses), "namespaceSelector": {"matchLabels": {"env": "shop"}}}
        kind = {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressIP", "metadata": {"name": "shop"}}
        self.cluster.apply([{**kind, "spec": spec}])
        self.until("all addresses are held", lambda: set(self.holders()) == set(addresses), 60)

    def holders(self) -> dict[str, str]:
        """Return which node holds each address, as the object's status says."""
        found = json.loads(self.cluster.kubectl("get", "egressip", "shop", "-o", "json"))
        return {item["egressIP"]: item["node"] for item in found.get("status", {}).get("items", ())}

    def client(self, node: str) -> PodHost:
        """Return the network of the selected pod on a node."""
        return self.cluster.pod(f"client-{node}", "shop")

    def source(self, host: PodHost, server: str = ECHO, timeout: float = 3.0) -> str:
        """Return whom an echo server outside saw; client.NoReply without an answer."""
        return client.tcp(host, parse(server), 80, "hello", timeout).split()[0]

    def until(self, what: str, holds: Callable[[], bool], timeout: float) -> float:
        """Return after how many seconds it held; what has no answer yet does not."""

        def tried() -> bool:
            try:
                return holds()
            except (client.NoReply, OSError, KeyError):
                return False

        try:
            return self.cluster.wait(what, tried, timeout)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.story()}") from error


def traces(installed: EgressIPs, node: str) -> dict[str, Any]:
    """Return what an agent could leave on a node."""
    host = installed.cluster.host(node)
    machine = installed.cluster.machines.by_name[node]
    links = {line.split(": ")[1].split("@")[0] for line in host.ip("-o link").splitlines()}
    return {
        "links": {name for name in links if not name.startswith("veth")} - {"cni0"},
        "addresses": sorted(re.findall(r"inet6? (\S+) .*scope global", host.ip("addr show dev eth0"))),
        "rules": host.ip("rule") + host.ip("-6 rule"),
        "tables": sorted(
            line for line in machine.run(["nft", "list", "tables"]).splitlines() if "kube-proxy" not in line
        ),
        "routes": sorted(
            line.strip()
            for family in ("-4", "-6")
            for line in host.ip(f"{family} route show table all").splitlines()
            if "cni0" not in line and "fe80" not in line and "ff00" not in line
        ),
        "files": sorted(
            str(path.relative_to(root))
            for root in [Path(f"/proc/{machine.pid}/root/run/egress-router")]
            if root.exists()
            for path in root.rglob("*")
        ),
    }
