"""A lab whose nodes run the agent on a real API server, which is a machine of the lab's LAN."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from egress_router.egressip.source.api_objects import ASSIGNABLE, assignment_name
from lab import LAN, PODS, Host, Lab, NoReply
from lab.kubernetes import credentials, versions
from lab.kubernetes.alone import api_server
from lab.kubernetes.api_client import ApiError
from lab.kubernetes.api_server import ApiServer

SERVER = "192.0.2.99"
CRDS = Path(__file__).parents[3] / "deploy" / "egress-ips" / "base" / "crds"
NAMESPACE = "egress-router"
OURS = "/apis/egress-router.io/v1alpha1"
MERGE = "application/merge-patch+json"


class ApiCluster:
    """A lab with an API server, and the processes that were started on it."""

    def __init__(self, lab: Lab, server: ApiServer, folder: Path) -> None:
        self.lab = lab
        self.server = server
        self.folder = folder
        self.logs: dict[str, Path] = {}
        #: What processes that are started from now on have in their environment besides.
        self.environment: dict[str, str] = {}
        for file in sorted(CRDS.glob("*.yaml")):
            server.kubectl("apply", "-f", str(file))
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        for node in lab.nodes:
            self.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name}})

    def create(self, path: str, value: dict[str, Any]) -> Any:
        return self.server.client.request("POST", path, value)

    def patch(self, path: str, value: dict[str, Any]) -> Any:
        return self.server.client.request("PATCH", path, value, content_type=MERGE)

    def get(self, path: str) -> Any:
        return self.server.client.get(path)

    def namespace(self, name: str, **labels: str) -> None:
        self.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})

    def egress_ip(self, name: str, *ips: str, **labels: str) -> None:
        """Pods of namespaces with these labels leave with these addresses."""
        self.create(
            f"{OURS}/egressips",
            {
                "apiVersion": "egress-router.io/v1alpha1",
                "kind": "EgressIP",
                "metadata": {"name": name},
                "spec": {"egressIPs": list(ips), "namespaceSelector": {"matchLabels": labels}},
            },
        )

    def assignable(self, *nodes: Host) -> None:
        for node in nodes:
            self.patch(f"/api/v1/nodes/{node.name}", {"metadata": {"labels": {ASSIGNABLE: ""}}})

    def pod(self, name: str, namespace: str, node: int, **labels: str) -> Host:
        """Make a pod in the lab, and tell the server of it, as a kubelet does."""
        pod = self.lab.pod(name, node=node)
        self.tell(pod, name, namespace, node, **labels)
        return pod

    def tell(self, pod: Host, name: str, namespace: str, node: int, **labels: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods"
        self.create(
            path,
            {
                "metadata": {"name": name, "labels": labels},
                "spec": {
                    "nodeName": self.lab.nodes[node].name,
                    "containers": [{"name": "main", "image": "none"}],
                    "terminationGracePeriodSeconds": 0,
                },
            },
        )
        ips = [{"ip": str(ip)} for ip in pod.addresses.values()]
        status = {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}
        self.patch(f"{path}/{name}/status", {"status": status})

    def delete_pod(self, name: str, namespace: str) -> None:
        self.server.client.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": 0})

    # Our processes

    def socket_of(self, node: Host) -> Path:
        return self.folder / f"{node.name}.sock"

    def start(self, *nodes: Host, kubeconfig: Path | None = None, **options: str) -> list[subprocess.Popen[Any]]:
        """Start the agents of these nodes (default: all)."""
        started = []
        for node in nodes or self.lab.nodes:
            arguments = ["node", "--node", node.name, "--socket", str(self.socket_of(node))]
            for network in (LAN[4], LAN[6], PODS[4], PODS[6]):
                arguments += ["--cluster", str(network)]
            started.append(self._run(node, node.name, arguments, options, kubeconfig))
        return started

    def start_controller(
        self, name: str, node: Host, kubeconfig: Path | None = None, **options: str
    ) -> subprocess.Popen[Any]:
        quick = {"probe_interval": "0.1", "hold_down": "1", "lease_namespace": "default"}
        return self._run(node, name, ["egressip", "controller"], {**quick, **options}, kubeconfig)

    def _run(
        self, node: Host, name: str, arguments: list[str], options: dict[str, str], kubeconfig: Path | None
    ) -> subprocess.Popen[Any]:
        self.logs[name] = log = self.folder / f"{name}.log"
        # One without a value is a flag.
        words = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", value) if word]
        where = ["--source", "kubernetes", "--kubeconfig", str(kubeconfig or self.server.kubeconfig)]
        command = [sys.executable, "-m", "egress_router", *arguments, *where, *words]
        more = ["env", *(f"{name}={value}" for name, value in self.environment.items())] if self.environment else []
        with log.open("ab") as file:
            return node.popen([*more, *command], stdout=file, stderr=file)

    def ask(self, node: Host, word: str = "status") -> dict[str, Any]:
        from egress_router.egressip.node.control import ask

        return ask(self.socket_of(node), word)

    def rights_of(self, account: str, node: Host) -> Path:
        """Return a kubeconfig with the token of a pod of a service account on a node; deploy/egress-ips is applied."""
        folder = f"/api/v1/namespaces/{NAMESPACE}"
        name = f"{account}-{node.name}"
        spec = {
            "nodeName": node.name,
            "serviceAccountName": account,
            "hostNetwork": True,
            "containers": [{"name": "main", "image": "none"}],
        }
        pod = self.create(f"{folder}/pods", {"metadata": {"name": name}, "spec": spec})
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}}
        token = self.create(f"{folder}/serviceaccounts/{account}/token", request)["status"]["token"]
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(credentials.kubeconfig(self.server.url, self.server.ca, token))
        return path

    # What is seen

    def holder(self, ip: str) -> str:
        """Return the node that the address is assigned to, "" when it is none."""
        try:
            return str(self.get(f"{OURS}/egressipassignments/{assignment_name(ip)}")["spec"].get("node", ""))
        except ApiError:
            return ""

    def ready(self, name: str) -> tuple[str, str]:
        """Return status and reason of the condition Ready of an EgressIP."""
        conditions = self.get(f"{OURS}/egressips/{name}").get("status", {}).get("conditions", [])
        return next(((c["status"], c["reason"]) for c in conditions if c["type"] == "Ready"), ("", ""))

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> float:
        """Wait for a condition; return the seconds it took."""
        from egress_router.errors import TryAgainError

        start = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - start
            except (TryAgainError, NoReply, ApiError, KeyError):
                pass
            if time.monotonic() - start > timeout:
                raise AssertionError(f"not within {timeout} s\n{self.text()}")
            time.sleep(0.02)

    def text(self) -> str:
        """Return all logs, and our objects."""
        parts = [f"--- {name}\n{log.read_text()[-3000:]}" for name, log in self.logs.items()]
        kinds = ("egressips", "egressnodes", "egressipassignments")
        parts += [json.dumps(self.get(f"{OURS}/{kind}")["items"], indent=1)[:4000] for kind in kinds]
        return "\n".join(parts)

    def source_of(self, pod: Host, target: str, timeout: float = 1.0) -> str:
        """Return the source address that an outside service sees."""
        return self.lab.udp(pod, target, 53, payload="x", timeout=timeout).split()[0]


@contextmanager
def api_cluster(lab: Lab, folder: Path, version: str = versions.KUBERNETES) -> Iterator[ApiCluster]:
    """Run an API server on a machine of the lab's LAN."""
    machine = lab.machine("api", SERVER)
    with api_server(version, network=str(machine.netns_path), address=SERVER) as server:
        yield ApiCluster(lab, server, folder)
