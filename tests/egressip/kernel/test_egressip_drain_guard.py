"""A real `kubectl drain` on a real API server waits for the hand-over of the node's egress IPs, and for that alone.

Nobody runs here but the server: the test stands in for kubelets (the state of pods), the disruption controller (the
state of the budget) and agents (the state of EgressNodes).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router.egressip.source.api_objects import CORDONED
from egress_router.egressip.source.drain_guard import HANDED_OVER, DrainGuard
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.kubernetes.client import MERGE_PATCH, ApiError, Client
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.kubernetes.lease import KubernetesLease
from lab.kubernetes.api_client import ApiError as Refused
from lab.kubernetes.api_client import wait_until
from lab.kubernetes.api_server import ApiServer
from tests.support.kubernetes import VERSIONS
from tests.support.threads import threads

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("api_server"),
    pytest.mark.parametrize("api_server", VERSIONS, indirect=True),
]

GUARD = Path(__file__).parents[3] / "deploy" / "egress-ips" / "overlays" / "guard"
NAMESPACE = "egress-router"
LABELS = {"app.kubernetes.io/name": "egress-router", "app.kubernetes.io/component": "drain-guard"}
NODES = ("node-1", "node-2")


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    """The overlay is applied, and the budget's state is what the disruption controller makes of it."""
    api_server.kubectl("apply", "--validate=strict", "-k", str(GUARD))
    api_server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in NODES]
    ours = [
        {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressNode", "metadata": {"name": name}, "spec": {}}
        for name in NODES
    ]
    api_server.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([*nodes, *ours]))
    status = {
        "observedGeneration": 1,
        "disruptionsAllowed": 0,
        "currentHealthy": 2,
        "desiredHealthy": 2,
        "expectedPods": 2,
    }
    said(api_server, "poddisruptionbudget", "egress-router-drain-guard", status)
    return api_server


def said(server: ApiServer, kind: str, name: str, status: dict[str, Any]) -> None:
    """Write a status, as a kubelet, an agent or a controller of Kubernetes does."""
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    server.kubectl("patch", kind, name, "-n", NAMESPACE, *patch)


def guard_pod(server: ApiServer, node: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"guard-{node}", "namespace": NAMESPACE, "labels": LABELS},
        "spec": {"nodeName": node, "containers": [{"name": "guard", "image": "none"}]},
    }
    server.kubectl("apply", "-f", "-", input=yaml.safe_dump(pod))
    ready = [{"type": "Ready", "status": "True"}]
    said(server, "pod", f"guard-{node}", {"phase": "Running", "podIP": f"10.244.0.{node[-1]}", "conditions": ready})


def gone(server: ApiServer, node: str) -> None:
    options = ("-n", NAMESPACE, "--grace-period=0", "--force", "--ignore-not-found")
    server.kubectl("delete", "pod", f"guard-{node}", *options)


def labels_of(server: ApiServer, node: str) -> dict[str, str]:
    pod = server.kubectl("get", "pod", f"guard-{node}", "-n", NAMESPACE, "-o", "json", "--ignore-not-found")
    return dict(json.loads(pod)["metadata"]["labels"]) if pod else {}


def cordon_told(server: ApiServer, node: str) -> bool:
    found = json.loads(server.kubectl("get", "egressnode", node, "-o", "json"))["metadata"].get("annotations", {})
    return bool(found.get(CORDONED) == "true")


@pytest.fixture
def client(server: ApiServer) -> Client:
    """One with the controller's rights."""
    token = server.kubectl("create", "token", "egress-router-controller", "-n", NAMESPACE).strip()
    return Client(ApiConfiguration(server.url, ca_file=server.ca, token=token))


@pytest.fixture
def running(server: ApiServer, client: Client) -> Iterator[Callable[..., DrainGuard]]:
    """What the controller runs; guard pods are on both nodes."""
    for node in NODES:
        guard_pod(server, node)
        said(server, "egressnode", node, {"hostIPs": [f"192.0.2.1{node[-1]}"], "drain": None})
    started: list[Any] = []

    def start(*, on_cordon: bool = True) -> DrainGuard:
        begin = threads().start
        lease = KubernetesLease(client, begin, NAMESPACE, "egress-router-controller", "test")
        wait_until("the lease", lease.acquire, 20.0)
        source = KubernetesSource(client, begin, None)
        source.read()
        guard = DrainGuard(client, source, lease, NAMESPACE, print, on_cordon=on_cordon)
        turn = guard.turn

        def looked(now: float) -> None:
            # As the controller's loop does.
            if source.wait(0):
                source.read()
            turn(now)

        guard.loop._turn = looked
        guard.start(begin)
        started.extend([lease.release, source.close, guard.stop])
        return guard

    yield start
    for end in reversed(started):
        end()
    for node in NODES:
        server.kubectl("uncordon", node)
        gone(server, node)


def drain(server: ApiServer, node: str, timeout: str) -> subprocess.Popen[str]:
    # Guard pods stand alone here, and no kubelet ends one that is asked to go.
    options = ("--force", "--ignore-daemonsets", "--grace-period=0", f"--timeout={timeout}")
    command = server.kubectl_command(["drain", node, *options])
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_kubectl_drain_waits_until_everything_is_handed_over(
    server: ApiServer, running: Callable[..., DrainGuard]
) -> None:
    running()
    process = drain(server, "node-1", "90s")
    wait_until("the agent is told", lambda: cordon_told(server, "node-1"), 20.0)
    assert not cordon_told(server, "node-2")
    said(server, "egressnode", "node-1", {"drain": {"phase": "Draining", "connections": 3}})
    # kubectl asks every five seconds.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(7)
    assert HANDED_OVER not in labels_of(server, "node-1")
    said(server, "egressnode", "node-1", {"drain": {"phase": "HandedOver", "connections": 0}})
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 0, output
    assert "Cannot evict pod as it would violate the pod's disruption budget" in output
    assert labels_of(server, "node-1") == {}
    # The other node's guard was not let go by the same budget.
    other = drain(server, "node-2", "7s")
    output, _ = other.communicate(timeout=40)
    assert other.returncode != 0
    assert labels_of(server, "node-2") == LABELS


def test_a_node_that_is_uncordoned_takes_traffic_again_and_is_guarded_again(
    server: ApiServer, running: Callable[..., DrainGuard]
) -> None:
    running()
    server.kubectl("cordon", "node-1")
    wait_until("the agent is told", lambda: cordon_told(server, "node-1"), 20.0)
    said(server, "egressnode", "node-1", {"drain": {"phase": "HandedOver", "connections": 0}})
    wait_until("the pod may go", lambda: HANDED_OVER in labels_of(server, "node-1"), 20.0)
    server.kubectl("uncordon", "node-1")
    # At once, though the agent has not taken its word back yet.
    wait_until("the agent is told", lambda: not cordon_told(server, "node-1"), 20.0)
    wait_until("the pod may not go", lambda: labels_of(server, "node-1") == LABELS, 20.0)


def test_without_the_option_only_spec_drain_counts(server: ApiServer, running: Callable[..., DrainGuard]) -> None:
    running(on_cordon=False)
    server.kubectl("cordon", "node-1")
    said(server, "egressnode", "node-1", {"drain": {"phase": "HandedOver", "connections": 0}})
    server.kubectl("patch", "egressnode", "node-2", "--type=merge", "-p", '{"spec": {"drain": true}}')
    said(server, "egressnode", "node-2", {"drain": {"phase": "HandedOver", "connections": 0}})
    try:
        wait_until("the pod may go", lambda: HANDED_OVER in labels_of(server, "node-2"), 20.0)
        assert HANDED_OVER not in labels_of(server, "node-1")
        assert not cordon_told(server, "node-1")
    finally:
        server.kubectl("patch", "egressnode", "node-2", "--type=merge", "-p", '{"spec": {"drain": false}}')


def test_the_controller_can_change_nothing_else_of_pods(
    server: ApiServer, client: Client, running: Callable[..., DrainGuard]
) -> None:
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    agent = {
        "metadata": {"name": "agent", "labels": {"app.kubernetes.io/component": "node"}},
        "spec": {"containers": [{"name": "agent", "image": "ours"}]},
    }
    server.client.request("POST", pods, agent)
    image = {"spec": {"containers": [{"name": "agent", "image": "theirs"}]}}
    guard = {"metadata": {"labels": {"app.kubernetes.io/component": "drain-guard"}}}
    other = {"spec": {"containers": [{"name": "guard", "image": "theirs"}]}}
    for name, patch in (("agent", image), ("agent", guard), ("guard-node-1", other)):
        with pytest.raises(ApiError, match=r"the controller changes (labels of )?guard pods only"):
            client.request("PATCH", f"{pods}/{name}", body=patch, content_type=MERGE_PATCH)
    with pytest.raises(ApiError, match="403"):
        client.request("PATCH", "/api/v1/namespaces/kube-system/pods/x", body=guard, content_type=MERGE_PATCH)
    label = {"metadata": {"labels": {HANDED_OVER: "true"}}}
    client.request("PATCH", f"{pods}/guard-node-1", body=label, content_type=MERGE_PATCH)
    server.kubectl("delete", "pod", "agent", "-n", NAMESPACE, "--grace-period=0", "--force")


def test_the_budget_holds_without_any_controller(server: ApiServer) -> None:
    """The test's stand-ins are right: the pod is held by the budget's selector, and goes when that leaves it out."""
    guard_pod(server, "node-1")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "guard-node-1", "namespace": NAMESPACE},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/guard-node-1/eviction"
    with pytest.raises(Refused, match="429"):
        server.client.request("POST", path, eviction)
    server.kubectl("label", "pod", "guard-node-1", "-n", NAMESPACE, f"{HANDED_OVER}=true")
    server.client.request("POST", path, eviction)
    gone(server, "node-1")
