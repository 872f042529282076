"""Routers in a real cluster, from what `egress-router manifests` writes, and clients that go through them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import client
from lab.addressing import parse
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.images import BUSYBOX
from lab.kubernetes.outside import PodHost
from lab.process import CommandFailed, run

NAMESPACE = "egress-routers"
GATEWAY, GATEWAY6 = "192.0.2.1", "2001:db8:2::1"
CONNECTIONS = Path(__file__).with_name("connections.py")
READY = 90.0


def manifests(kind: str, name: str, sources: list[str], destinations: str, *options: str) -> str:
    """Return what the command line writes for Kubernetes, with a macvlan on the nodes' eth0."""
    both = any(":" in one for one in sources)
    gateway = [f"--gateway={GATEWAY},{GATEWAY6}" if both else f"--gateway={GATEWAY}"]
    command = [sys.executable, "-m", "egress_router", "manifests", kind, f"--name={name}", *gateway]
    command += [f"--source={source}" for source in sources]
    command += ["--destinations=-", "--platform=kubernetes", "--parent-interface=eth0", *options]
    return run(command, input=destinations, timeout=60).stdout


def client_pod(name: str, node: str, namespace: str = "default") -> dict[str, Any]:
    """Return a pod that sleeps; its network is used from outside of it."""
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }


class Routers:
    """The namespace of routers in a cluster whose nodes have the images, and a client pod on each of two nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.load_products()
        for name in (NAMESPACE, "clients"):
            cluster.kubectl("create", "namespace", name)
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")
        nodes = cluster.shape.node_names
        cluster.apply([client_pod(f"client-{number + 1}", node, "clients") for number, node in enumerate(nodes)])
        cluster.kubectl("-n", "clients", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")

    def client(self, number: int = 1) -> PodHost:
        """Return the network of the client pod on a node."""
        return self.cluster.pod(f"client-{number}", "clients")

    def kubectl(self, *arguments: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run kubectl in the routers' namespace."""
        return self.cluster.kubectl("-n", NAMESPACE, *arguments, check=check, timeout=timeout)

    def apply(self, text: str) -> str:
        """Apply objects with strict validation of their fields."""
        return self.cluster.kubectl("apply", "--validate=strict", "-f", "-", input=text)

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Return the pods of a router or set."""
        selector = f"app.kubernetes.io/instance={name}"
        return list(json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"])

    def ready(self, name: str) -> list[dict[str, Any]]:
        """Return the pods of a set that are Ready and not about to end."""
        return [pod for pod in self.pods(name) if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    def wait_ready(self, name: str, number: int = 1, timeout: float = READY) -> list[dict[str, Any]]:
        """Wait until a set has so many pods that are Ready, and return them; what they say is in the error."""
        deadline = time.monotonic() + timeout
        while len(found := self.ready(name)) != number or len(self.pods(name)) != number:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name}: {number} pods are not Ready\n{self.story(name)}")
            time.sleep(0.2)
        return found

    def story(self, name: str) -> str:
        """Return what a person would look at."""
        selector = f"app.kubernetes.io/instance={name}"
        parts = [self.kubectl("get", "pods", "-o", "wide", check=False)]
        parts.append(self.kubectl("describe", "pods", "-l", selector, check=False))
        parts.append(self.kubectl("logs", "-l", selector, "--all-containers", "--prefix", "--tail=20", check=False))
        return "\n".join(parts)

    def service(self, name: str, family: int = 4) -> str:
        """Return the address of a Service that clients connect to."""
        spec = json.loads(self.kubectl("get", "service", name, "-o", "json"))["spec"]
        addresses: list[str] = spec["clusterIPs"]
        return next(address for address in addresses if parse(address).version == family)

    def source(self, address: str, port: int, number: int = 1, timeout: float = 5.0) -> str:
        """Return whom an echo server behind ``address`` saw when a client asked; client.NoReply without an answer."""
        return client.tcp(self.client(number), parse(address), port, "hello", timeout).split()[0]

    def say(self, address: str, port: int, text: str, number: int = 1) -> str:
        """Return the first that comes back when a client connects and sends a text."""
        with client.connect(self.client(number), parse(address), port, 5) as opened:
            opened.sendall(text.encode())
            return opened.recv(4096).decode()

    def until(self, what: str, holds: Callable[[], bool], timeout: float) -> float:
        """Return after how many seconds ``holds()`` was true; what has no answer yet is not true."""

        def tried() -> bool:
            try:
                return holds()
            except (client.NoReply, CommandFailed, OSError, KeyError, IndexError):
                return False

        return self.cluster.wait(what, tried, timeout)

    def clear(self) -> None:
        """Take away what manifests have made, and wait until no pod is left."""
        kinds = "deploy,rc,pods,services,configmaps,networkpolicies,poddisruptionbudgets,network-attachment-definitions"
        self.kubectl("delete", kinds, "-l", "app.kubernetes.io/part-of=egress-router", "--grace-period=1", "--wait")
        self.until("no pod is left", lambda: not json.loads(self.kubectl("get", "pods", "-o", "json"))["items"], 90)

    @contextmanager
    def connecting(
        self,
        address: str,
        port: int,
        number: int = 1,
        threads: int = 2,
        send: str = "x\n",
        expect: str = "x\n",
        patience: float = 10.0,
    ) -> Iterator[dict[str, Any]]:
        """Open connections all the while, send and expect something; what became of it is in the dictionary at the end.

        Each may take ``patience`` seconds.
        ``connections``: how many, ``failures``: a line each, ``seconds``: how long.
        """
        host = self.client(number)
        stop = self.cluster.machines.files / f"stop-{time.monotonic_ns()}"
        command = [
            sys.executable,
            str(CONNECTIONS),
            address,
            str(port),
            str(stop),
            str(threads),
            "1000000",
            send,
            expect,
            str(patience),
        ]
        process = host.popen(command, stdout=subprocess.PIPE, text=True)
        outcome: dict[str, Any] = {}
        try:
            yield outcome
        finally:
            stop.touch()
            outcome |= json.loads(process.communicate(timeout=60 + patience)[0])
            stop.unlink()


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod's condition Ready is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
