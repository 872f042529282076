"""A cluster whose pods have kube-router's network: routed by BGP, and NetworkPolicy is enforced."""

from __future__ import annotations

import json

import pytest

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import Plan
from tests.cluster.kernel.objects import WEB, daemon_set, pod

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(300),
    pytest.mark.parametrize("cluster", [Plan(nodes=2, cni="kube-router")], indirect=True, ids=["kube-router"]),
]


def test_a_policy_lets_in_whom_it_names(cluster: Cluster) -> None:
    """On the client's own node and on the other one."""
    cluster.apply([daemon_set("web", WEB), pod("client", "node-1")])
    cluster.kubectl("rollout", "status", "daemonset/web", "--timeout=60s")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
    pods = json.loads(cluster.kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    addresses = [one["status"]["podIP"] for one in pods]

    def answers() -> int:
        get = "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {} 8080"
        said = [cluster.kubectl("exec", "client", "--", "sh", "-c", get.format(ip), check=False) for ip in addresses]
        return sum("hello from" in one for one in said)

    # Routes between nodes come by BGP, some seconds later.
    cluster.wait("both answer", lambda: answers() == 2, 60.0)
    peers = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "friends"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers}],
        },
    }
    cluster.apply([policy])
    cluster.wait("none answers", lambda: answers() == 0, 30.0)
    cluster.kubectl("label", "pod", "client", "role=friend")
    cluster.wait("both answer a friend", lambda: answers() == 2, 30.0)
