"""Egress IPs as they are installed: `kubectl apply -k deploy/egress-ips`, pods on real kubelets, packets outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import client
from lab.addressing import parse
from lab.kubernetes.api_server import SERVICES
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.machines import CHECKOUT
from lab.kubernetes.outside import PodHost
from lab.kubernetes.plan import LAN4, LAN6, PODS4, PODS6, Plan
from lab.process import CommandFailed
from tests.support.products import client_pod

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(400),
    pytest.mark.parametrize("cluster", [Plan()], indirect=True, ids=["bridge"]),
]

SPACE = "egress-router"
ECHO, ECHO6 = "203.0.113.25", "2001:db8:113::25"
FIRST, FIRST6, SECOND = "192.0.2.45", "2001:db8:2::45", "192.0.2.54"
NODES = {"node-1": "192.0.2.11", "node-2": "192.0.2.12", "node-3": "192.0.2.13"}
HOLDERS = ("node-2", "node-3")


class EgressIPs:
    """The installation in a cluster: a client pod on each node that is selected, and one that is not."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.before = {name: traces(self, name) for name in NODES}
        self.install()
        cluster.kubectl("label", "nodes", *HOLDERS, "egress-router.io/egress-assignable=")
        for name in ("shop", "other"):
            cluster.kubectl("create", "namespace", name)
        cluster.kubectl("label", "namespace", "shop", "env=shop")
        cluster.apply([client_pod(f"client-{node}", node, "shop") for node in NODES])
        cluster.apply([client_pod("client", "node-1", "other")])
        cluster.kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")

    def overlay(self) -> Path:
        """Write what a person changes before installing: the cluster's networks."""
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


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> EgressIPs:
    cluster.load_products()
    cluster.echo(ECHO, tcp=[80])
    cluster.echo(ECHO6, tcp=[80])
    return EgressIPs(cluster)


def test_local_and_remote_pods_leave_with_the_egress_ip(installed: EgressIPs) -> None:
    """Ready means that packets leave with it: of pods on the holder and elsewhere, in both families."""
    assert installed.source(installed.client("node-1")) == NODES["node-1"], "before there is one it is the node's"
    installed.egress_ip(FIRST, FIRST6)
    holders = installed.holders()
    assert set(holders.values()) <= set(HOLDERS)
    with installed.cluster.capture() as seen:
        for node in NODES:
            assert installed.source(installed.client(node)) == FIRST, f"{node}, held by {holders[FIRST]}"
            assert installed.source(installed.client(node), ECHO6) == FIRST6
        assert installed.source(installed.cluster.pod("client", "other")) == NODES["node-1"], "nobody selects this one"
    (mac,) = seen.owners(FIRST)
    link = json.loads(installed.cluster.host(holders[FIRST]).ip("-j link show eth0"))
    assert link[0]["address"] == mac, "it comes from the node that says it has it"
    sources = {str(packet.src) for packet in seen.received() if packet.proto == "tcp"}
    assert sources == {FIRST, FIRST6, NODES["node-1"]}


def test_the_pods_are_as_little_privileged_as_written(installed: EgressIPs) -> None:
    pods = json.loads(installed.kubectl("get", "pods", "-o", "json"))["items"]
    assert len(pods) == 5
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert not container["securityContext"].get("privileged", False)
        (status,) = pod["status"]["containerStatuses"]
        assert status["restartCount"] == 0, installed.story()


def test_a_rolling_update_of_the_agents_loses_no_packet(installed: EgressIPs) -> None:
    """An agent that ends leaves all in its kernel, and the next one takes it over."""
    installed.egress_ip(FIRST, FIRST6)
    with installed.cluster.capture() as seen:
        floods = {
            (node, server): installed.client(node).popen(
                ["ping", "-q", "-i", "0.01", server], stdout=subprocess.PIPE, text=True
            )
            for node in NODES
            for server in (ECHO, ECHO6)
        }
        time.sleep(1)
        installed.kubectl("rollout", "restart", "daemonset/egress-router-node")
        installed.kubectl("rollout", "status", "daemonset/egress-router-node", "--timeout=180s", timeout=200)
        time.sleep(1)
        sent = {}
        for key, ping in floods.items():
            ping.send_signal(signal.SIGINT)
            told = ping.communicate(timeout=20)[0]
            sent[key] = [int(number) for number in re.findall(r"(\d+) (?:packets transmitted|received)", told)]
    print(f"sent and received: {sent}")
    echo_requests = (("icmp", 8), ("icmpv6", 128))
    assert {str(one.src) for one in seen.received() if (one.proto, one.icmp_type) in echo_requests} == {FIRST, FIRST6}
    # The last question may have no answer yet when it is interrupted.
    lost = {key: transmitted - received for key, (transmitted, received) in sent.items()}
    assert all(transmitted > 300 for transmitted, _ in sent.values())
    assert all(0 <= number <= 1 for number in lost.values()), lost


def test_a_node_is_drained_and_comes_back(installed: EgressIPs) -> None:
    """First of its egress IPs, so that traffic leaves by the other node; then of its pods (`kubectl drain` leaves
    DaemonSets alone); and nothing leaves with another source.
    """
    installed.egress_ip(FIRST, SECOND)
    node = installed.holders()[FIRST]
    others = [name for name in NODES if name != node]

    def drain(wanted: bool) -> None:
        spec = json.dumps({"spec": {"drain": wanted}})
        installed.cluster.kubectl("patch", "egressnode", node, "--type=merge", "-p", spec)

    with installed.cluster.capture() as seen:
        drain(True)
        try:
            for name in others:
                host = installed.client(name)
                installed.until("the other node translates", lambda h=host: installed.source(h) == SECOND, 60)  # type: ignore[misc]
            words = ("drain", node, "--ignore-daemonsets", "--force", "--grace-period=1", "--timeout=60s")
            installed.cluster.kubectl(*words, timeout=90)
            assert [installed.source(installed.client(name)) for name in others] == [SECOND, SECOND]
        finally:
            installed.cluster.kubectl("uncordon", node)
            drain(False)
            installed.cluster.apply([client_pod(f"client-{node}", node, "shop")])
            installed.cluster.kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        held = {FIRST, SECOND}
        installed.until("its new pod leaves", lambda: installed.source(installed.client(node)) in held, 60)
    assert {str(packet.src) for packet in seen.received() if packet.proto == "tcp"} <= held


def test_a_cut_holder_is_replaced(installed: EgressIPs) -> None:
    """With two addresses the other one serves at once; the lost one comes to the node that is left."""
    installed.egress_ip(FIRST, SECOND)
    holders = installed.holders()
    assert set(holders.values()) == set(HOLDERS), "one each"
    host = installed.client("node-1")
    lost = installed.source(host)
    left = SECOND if lost == FIRST else FIRST
    installed.cluster.cut(holders[lost])
    try:
        took = installed.until("the other one serves", lambda: installed.source(host, timeout=0.5) == left, 30)
        print(f"{holders[lost]} was cut off: {left} serves after {took:.1f} s")
        assert took < 10
    finally:
        installed.cluster.heal(holders[lost])
    installed.until("both are held again", lambda: set(installed.holders()) == {FIRST, SECOND}, 120)
    installed.until("its own pod leaves", lambda: installed.source(installed.client(holders[lost])) in holders, 60)


def test_uninstalling_leaves_nothing(installed: EgressIPs) -> None:
    """The commands of docs/egress-ips-kubernetes.md, in their order; the last test of the module."""
    installed.egress_ip(FIRST)
    assert any(traces(installed, node)["tables"] != installed.before[node]["tables"] for node in NODES)
    page = (CHECKOUT / "docs/egress-ips-kubernetes.md").read_text()
    section = page[page.index("## Uninstalling") :].split("```")[1]
    commands = [line.split()[1:] for line in section.splitlines() if line.startswith("kubectl ")]
    assert len(commands) == 6
    for words in commands:
        # Paths are those of the checkout; what was installed is the overlay.
        named = {"deploy/egress-ips": str(installed.overlay())}
        real = [named.get(word, str(CHECKOUT / word) if word.startswith("deploy/") else word) for word in words]
        try:
            installed.cluster.kubectl(*real, timeout=180)
        except CommandFailed as error:
            raise AssertionError(f"{error}\n{installed.story()}") from error
    for node, before in installed.before.items():
        assert traces(installed, node) == before, node
    kinds = installed.cluster.kubectl("api-resources", "-o", "name")
    assert "egress-router.io" not in kinds
    for node in NODES:
        assert installed.source(installed.client(node)) == NODES[node]
