"""What following the Kubernetes API costs, against a real API server: `python -m bench.kubernetes_source [PODS]`.

Prints, for the controller, for an agent that holds the address of every pod's namespace, and for one that holds none:
seconds until everything is known, resident memory then and at the most, and processor time for 1,000 changes of pods.
Needs root, and the API server of lab/kubernetes (built at the first run).
"""

from __future__ import annotations

import json
import os
import resource
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
#: About as large as a usual pod with managedFields.
FILLER = "x" * 4500


def resident() -> float:
    """Return the resident memory of this process in MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def child(kubeconfig: str, node: str) -> None:
    """Follow the objects; answer a line on standard input with the figures of now, in JSON."""
    from egress_router.daemon.loop import Loop
    from egress_router.daemon.threads import Threads
    from egress_router.egressip.assignment.decision import Evaluator
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
    os.set_blocking(0, False)
    while True:
        if source.wait(0.2):
            state, _ = source.read()
        line = sys.stdin.readline()
        if not line:
            continue
        if line == "end\n":
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
        metadata = {"name": f"p{number}", "labels": {"app": f"a{number % 50}"}, "annotations": {"filler": FILLER}}
        spec = {"nodeName": f"w{number % NODES}", "containers": [{"name": "main", "image": "none"}]}
        client.request("POST", path, body={"metadata": metadata, "spec": spec})
        ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        status = {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}
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


def change(kubeconfig: Path, pods: int) -> None:
    """Change as many pods as CHANGES."""
    client = Client(from_kubeconfig(kubeconfig, {}))
    for number in range(CHANGES):
        which = number % pods
        body = {"metadata": {"labels": {"changed": str(time.monotonic_ns())}}}
        path = f"/api/v1/namespaces/n{which % NAMESPACES}/pods/p{which}"
        client.request("PATCH", path, body=body, content_type=MERGE_PATCH)


def measure(kubeconfig: Path, pods: int, node: str) -> dict[str, float]:
    """Return the figures of one role."""
    command = [sys.executable, "-m", "bench.kubernetes_source", "child", str(kubeconfig), node]
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
        time.sleep(1)
        before = ask()
        time.sleep(20)
        rest = ask()
        change(kubeconfig, pods)
        time.sleep(2)
        after = ask()
        process.stdin.write("end\n")
        process.stdin.flush()
    events = after["events"] - rest["events"]
    return {
        "pods known": before["pods"],
        "seconds until known": start["seconds"],
        "MB after import": start["imported"],
        "MB": before["resident"],
        "MB at most": after["most"],
        "% of a core at rest": (rest["cpu"] - before["cpu"]) / 20 * 100,
        "requests a second at rest": (rest["requests"] - before["requests"]) / 20,
        "events": events,
        "CPU seconds per 1,000 events": (after["cpu"] - rest["cpu"]) / events * 1000 if events else 0.0,
    }


def main() -> None:
    """Measure the three roles."""
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], sys.argv[3])
        return
    from lab.kubernetes.alone import api_server

    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with api_server(say=print) as server:
        for file in sorted(CRDS.glob("*.yaml")):
            server.kubectl("apply", "-f", str(file))
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        begun = time.monotonic()
        populate(server.kubeconfig, pods)
        print(f"{pods} pods made in {time.monotonic() - begun:.0f} s", flush=True)
        for role, node in (("controller", ""), ("agent that holds all", "w0"), ("agent that holds nothing", "w1")):
            print(json.dumps({"role": role, **measure(server.kubeconfig, pods, node)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
