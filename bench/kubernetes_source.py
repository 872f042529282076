"""What following the Kubernetes API costs, against a real API server: `python -m bench.kubernetes_source [PODS]`.

Prints, for the controller, for an agent that holds the address of every pod's namespace, and for one that holds none:
seconds until everything is known, resident memory then and at the most, and processor time for 1,000 changes of pods,
as fast as one client makes them and 200 at once. Where the library lightkube is installed, the same for a process that
follows all pods by it and keeps of each what an agent needs. `--only ROLE` is for one role, `--turns N` goes round N
times.
Needs root, and the API server of lab/kubernetes (built at the first run).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from egress_router.kubernetes.client import MERGE_PATCH, Client
from egress_router.kubernetes.configuration import from_kubeconfig

CRDS = Path(__file__).parents[1] / "deploy" / "egress-ips" / "base" / "crds"
OURS = "/apis/egress-router.io/v1alpha1"
NODES, NAMESPACES, CHANGES, PARALLEL = 1000, 200, 1000, 8
BURSTS = 5
ROLES = {"controller": "", "agent that holds all": "w0", "agent that holds nothing": "w1"}
LIGHTKUBE = "lightkube"


def pod_spec(node: str) -> dict[str, Any]:
    """Return what a usual Deployment asks for; with status and managedFields such a pod has about 5 kB."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    main = {
        "name": "main",
        "image": "registry.example/shop/web:1.2.3",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "LEVEL", "value": "info"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "settings", "mountPath": "/etc/shop"}],
        "livenessProbe": probe,
        "readinessProbe": probe,
    }
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "shop"}}]
    return {"nodeName": node, "containers": [main], "volumes": volumes}


def pod_status(ip: str) -> dict[str, Any]:
    """Return what a kubelet says of a pod that runs."""
    when = "2026-01-01T00:00:00Z"
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    container = {
        "name": "main",
        "state": {"running": {"startedAt": when}},
        "ready": True,
        "restartCount": 0,
        "image": "registry.example/shop/web:1.2.3",
        "imageID": f"registry.example/shop/web@sha256:{'a' * 64}",
        "containerID": f"containerd://{'b' * 64}",
        "started": True,
    }
    return {
        "phase": "Running",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": when} for kind in kinds],
        "hostIP": "192.0.2.10",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": when,
        "containerStatuses": [container],
    }


def resident() -> float:
    """Return the resident memory of this process in MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def child(kubeconfig: str, node: str) -> None:
    """Follow the objects; answer a line on standard input with the figures of now, in JSON."""
    from egress_router.daemon.loop import Loop
    from egress_router.daemon.threads import Threads
    from egress_router.egressip.assignment.decision import Evaluator
    from egress_router.egressip.node.agent import PAUSE_LEAST, PAUSE_MOST, PAUSE_TIMES
    from egress_router.egressip.source.groups import LocalNode
    from egress_router.egressip.source.kubernetes import KubernetesSource

    imported = resident()
    begun = time.monotonic()
    me = LocalNode(node, ("192.0.2.1",)) if node else None
    source = KubernetesSource(Client(from_kubeconfig(Path(kubeconfig), {})), Threads(Loop()).start, me)
    while True:
        try:
            state, _ = source.read()
            break
        except OSError:
            source.wait(10)
    evaluator = Evaluator(state.assignment)
    evaluator.update(dict(state.namespaces), dict(state.nodes), frozenset())
    seconds = time.monotonic() - begun
    print(json.dumps({"seconds": seconds, "imported": imported}), flush=True)
    pending = False
    while True:
        ready = select.select([source.fileno(), 0], [], [], 0 if pending else None)[0]
        if source.wait(0) or pending:
            looked = time.monotonic()
            state, _ = source.read()
            # As the agent does, which reads together what comes in a row.
            took = time.monotonic() - looked
            until, pending = looked + took + min(max(PAUSE_LEAST, PAUSE_TIMES * took), PAUSE_MOST), False
            while (left := until - time.monotonic()) > 0:
                pending |= source.wait(left)
        if 0 not in ready:
            continue
        if sys.stdin.readline() != "now\n":
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {
            "pods": len(state.pods),
            "resident": resident(),
            "most": usage.ru_maxrss / 1024,
            "cpu": usage.ru_utime + usage.ru_stime,
            **source.counts(),
        }
        print(json.dumps(figures), flush=True)


def lightkube_child(kubeconfig: str) -> None:
    """The same with lightkube: a thread that keeps of each pod what an agent needs."""
    from threading import Thread

    from lightkube import Client as Lightkube
    from lightkube import KubeConfig
    from lightkube.resources.core_v1 import Pod

    imported, begun, known, events = resident(), time.monotonic(), dict[str, Any](), 0
    client = Lightkube(config=KubeConfig.from_file(kubeconfig))
    for pod in client.list(Pod, namespace="*"):
        known[pod.metadata.uid] = pod.spec.nodeName
    print(json.dumps({"seconds": time.monotonic() - begun, "imported": imported}), flush=True)

    def follow() -> None:
        nonlocal events
        for _, pod in client.watch(Pod, namespace="*"):
            ips = tuple(entry.ip for entry in pod.status.podIPs or [])
            labels = tuple(sorted((pod.metadata.labels or {}).items()))
            known[pod.metadata.uid] = (pod.metadata.namespace, pod.metadata.name, pod.spec.nodeName, ips, labels)
            events += 1

    Thread(target=follow, daemon=True).start()
    for line in sys.stdin:
        if line == "end\n":
            os._exit(0)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {"pods": len(known), "resident": resident(), "most": usage.ru_maxrss / 1024, "requests": 0}
        print(json.dumps({**figures, "cpu": usage.ru_utime + usage.ru_stime, "events": events}), flush=True)


def populate(kubeconfig: Path, pods: int) -> None:
    """Create namespaces, EgressNodes, one EgressIP for all, and pods with addresses."""

    def each(count: int, make: Any) -> None:
        def part(first: int) -> None:
            client = Client(from_kubeconfig(kubeconfig, {}))
            for number in range(first, count, PARALLEL):
                make(client, number)

        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(part, range(PARALLEL)))

    def namespace(client: Client, number: int) -> None:
        body = {"metadata": {"name": f"n{number}", "labels": {"env": "all"}}}
        client.request("POST", "/api/v1/namespaces", body=body)

    def node(client: Client, number: int) -> None:
        body = {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressNode", "metadata": {"name": f"w{number}"}}
        client.request("POST", f"{OURS}/egressnodes", body={**body, "spec": {}})
        status = {"status": {"hostIPs": [f"192.0.{number // 250}.{number % 250 + 1}"]}}
        client.request("PATCH", f"{OURS}/egressnodes/w{number}/status", body=status, content_type=MERGE_PATCH)

    def pod(client: Client, number: int) -> None:
        path = f"/api/v1/namespaces/n{number % NAMESPACES}/pods"
        metadata = {"name": f"p{number}", "labels": {"app": f"a{number % 50}"}}
        client.request("POST", path, body={"metadata": metadata, "spec": pod_spec(f"w{number % NODES}")})
        ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        status = {"status": pod_status(ip)}
        client.request("PATCH", f"{path}/p{number}/status", body=status, content_type=MERGE_PATCH)

    each(NAMESPACES, namespace)
    each(NODES, node)
    each(pods, pod)
    client = Client(from_kubeconfig(kubeconfig, {}))
    spec: dict[str, Any] = {"egressIPs": ["192.0.200.1"], "namespaceSelector": {"matchLabels": {"env": "all"}}}
    for kind, plural, name, body in (
        ("EgressIP", "egressips", "all", spec),
        (
            "EgressIPAssignment",
            "egressipassignments",
            "192.0.200.1",
            {"egressIP": "192.0.200.1", "node": "w0", "epoch": 1},
        ),
    ):
        value = {"apiVersion": "egress-router.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": body}
        client.request("POST", f"{OURS}/{plural}", body=value)


def change(kubeconfig: Path, pods: int, changes: int = CHANGES) -> None:
    """Change so many pods."""
    client = Client(from_kubeconfig(kubeconfig, {}))
    for number in range(changes):
        which = number % pods
        body = {"metadata": {"labels": {"changed": str(time.monotonic_ns())}}}
        path = f"/api/v1/namespaces/n{which % NAMESPACES}/pods/p{which}"
        client.request("PATCH", path, body=body, content_type=MERGE_PATCH)


def measure(kubeconfig: Path, pods: int, role: str) -> dict[str, float]:
    """Return the figures of one role."""
    command = [sys.executable, "-m", "bench.kubernetes_source", "--child", str(kubeconfig), "--only", role]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> dict[str, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("now\n")
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline()))

        start = dict(json.loads(process.stdout.readline()))
        time.sleep(3)
        before = ask()
        time.sleep(20)
        rest = ask()
        change(kubeconfig, pods)
        time.sleep(2)
        after = ask()
        for _ in range(BURSTS):
            process.send_signal(signal.SIGSTOP)
            change(kubeconfig, pods, CHANGES // BURSTS)
            process.send_signal(signal.SIGCONT)
            time.sleep(1)
        burst = ask()
        process.stdin.write("end\n")
        process.stdin.flush()
    return {
        "pods known": before["pods"],
        "seconds until known": start["seconds"],
        "MB after import": start["imported"],
        "MB": before["resident"],
        "MB at most": after["most"],
        "% of a core at rest": (rest["cpu"] - before["cpu"]) / 20 * 100,
        "requests a second at rest": (rest["requests"] - before["requests"]) / 20,
        "events": after["events"] - rest["events"],
        "CPU seconds per 1,000 events, one by one": _a_thousand(rest, after),
        "CPU seconds per 1,000 events, 200 at once": _a_thousand(after, burst),
    }


def _a_thousand(before: dict[str, float], after: dict[str, float]) -> float:
    events = after["events"] - before["events"]
    return (after["cpu"] - before["cpu"]) / events * 1000 if events else 0.0


def main() -> None:
    """Measure the roles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pods", type=int, nargs="?", default=10_000)
    parser.add_argument("--only", choices=[*ROLES, LIGHTKUBE])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--child", metavar="KUBECONFIG", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        if arguments.only == LIGHTKUBE:
            lightkube_child(arguments.child)
        else:
            child(arguments.child, ROLES[arguments.only])
        return
    from lab.kubernetes.alone import api_server

    there = [*ROLES, *([LIGHTKUBE] if importlib.util.find_spec(LIGHTKUBE) else [])]
    with api_server(say=print) as server:
        for file in sorted(CRDS.glob("*.yaml")):
            server.kubectl("apply", "-f", str(file))
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        begun = time.monotonic()
        populate(server.kubeconfig, arguments.pods)
        print(f"{arguments.pods} pods made in {time.monotonic() - begun:.0f} s", flush=True)
        for role in ([arguments.only] if arguments.only else there) * arguments.turns:
            print(json.dumps({"role": role, **measure(server.kubeconfig, arguments.pods, role)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
