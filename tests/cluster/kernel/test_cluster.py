"""A whole cluster: what an ordinary one does, in seconds."""

from __future__ import annotations

import json
import re

import pytest

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import DNS_SERVICE, PROXIES, SERVERS, Plan
from lab.kubernetes.versions import KUBERNETES
from tests.cluster.kernel.objects import WEB, daemon_set, pod, service

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]
#: Both modes of kube-proxy; the second with fewer nodes.
both_proxies = pytest.mark.parametrize(
    "cluster", [Plan(proxy=PROXIES[0]), Plan(nodes=2, proxy=PROXIES[1])], indirect=True, ids=PROXIES
)


def ask(address: str, port: int) -> str:
    """Return a shell command that prints what a web server says."""
    return f"printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port}"


@pytest.fixture(scope="module", autouse=True)
def web(cluster: Cluster) -> None:
    """A web server on every node, a Service in front, a client on the first node."""
    cluster.apply([daemon_set("web", WEB), service("web", 80), pod("client", "node-1")])
    cluster.kubectl("rollout", "status", "daemonset/web", "--timeout=60s")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")


def answers(cluster: Cluster, address: str, wanted: int) -> set[str]:
    """Return which pods answered, asking until ``wanted`` of them did or often enough."""
    found: set[str] = set()
    for _ in range(60):
        found |= set(
            re.findall(r"hello from (\S+)", cluster.kubectl("exec", "client", "--", "sh", "-c", ask(address, 80)))
        )
        if len(found) == wanted:
            break
    return found


@both_proxies
def test_nodes_are_ready_in_little_time(cluster: Cluster) -> None:
    """Measured in processor time, since tests run side by side: ten seconds of two processors."""
    assert sorted(cluster.ready_nodes()) == cluster.shape.node_names
    assert 1.0 < cluster.processor_seconds["nodes Ready"] <= 20.0, cluster.processor_seconds


@both_proxies
def test_every_node_has_the_version_and_addresses_of_the_plan(cluster: Cluster) -> None:
    for node in json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]:
        assert node["status"]["nodeInfo"]["kubeletVersion"] == f"v{KUBERNETES}"
        number = int(node["metadata"]["name"].removeprefix("node-"))
        addresses = {entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"}
        assert addresses == {f"192.0.2.{10 + number}", f"2001:db8:2::{10 + number}"}


@both_proxies
def test_a_daemon_set_has_a_pod_on_every_node(cluster: Cluster) -> None:
    pods = json.loads(cluster.kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    assert sorted(found["spec"]["nodeName"] for found in pods) == cluster.shape.node_names
    for found in pods:
        ranges = cluster.pod_ranges()[found["spec"]["nodeName"]]
        assert len(found["status"]["podIPs"]) == len(ranges) == 2, "both families"


@both_proxies
def test_a_service_reaches_the_pods_of_every_node(cluster: Cluster) -> None:
    """Through kube-proxy's rules, with both families."""
    addresses = json.loads(cluster.kubectl("get", "service", "web", "-o", "json"))["spec"]["clusterIPs"]
    assert len(addresses) == 2
    for address in addresses:
        assert len(answers(cluster, address, cluster.shape.nodes)) == cluster.shape.nodes


@both_proxies
def test_names_are_found(cluster: Cluster) -> None:
    """By CoreDNS, at the address that the kubelet wrote into the pod."""
    assert f"nameserver {DNS_SERVICE}" in cluster.kubectl("exec", "client", "--", "cat", "/etc/resolv.conf")
    assert "hello from" in cluster.kubectl("exec", "client", "--", "sh", "-c", ask("web", 80))
    assert "hello from" in cluster.kubectl("exec", "client", "--", "sh", "-c", ask("web.default.svc.cluster.local", 80))
    assert cluster.kubectl("exec", "client", "--", "sh", "-c", ask("nobody", 80), check=False) == ""


@both_proxies
def test_logs_come_from_every_node(cluster: Cluster) -> None:
    for name in cluster.shape.node_names:
        cluster.apply([pod(f"says-{name}", name, f"echo here is {name}; exec sleep 2147483647")])
        cluster.kubectl("wait", "--for=condition=Ready", f"pod/says-{name}", "--timeout=60s")
        assert cluster.kubectl("logs", f"says-{name}") == f"here is {name}\n"


@both_proxies
def test_pods_leave_with_the_address_of_their_node(cluster: Cluster) -> None:
    """As with most network plugins; what an egress router changes must be seen against that."""
    with cluster.capture() as seen:
        for server in SERVERS:
            cluster.kubectl("exec", "client", "--", "sh", "-c", ask(server, 81), check=False)
    asked = {(str(packet.src), str(packet.dst)) for packet in seen.received() if packet.dport == 81}
    assert asked == {("2001:db8:2::11" if ":" in server else "192.0.2.11", server) for server in SERVERS}


@both_proxies
def test_a_cut_node_is_missed_and_comes_back(cluster: Cluster) -> None:
    last = cluster.shape.node_names[-1]
    web = next(
        found["status"]["podIP"]
        for found in json.loads(cluster.kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
        if found["spec"]["nodeName"] == last
    )
    question = ("exec", "client", "--", "sh", "-c", ask(web, 8080))
    assert "hello from" in cluster.kubectl(*question, check=False)
    cluster.cut(last)
    assert cluster.kubectl(*question, check=False) == ""
    cluster.heal(last)
    cluster.wait("the pod answers again", lambda: "hello from" in cluster.kubectl(*question), 10.0)
