"""A lab whose nodes run the egress IP agent, and the objects that they read."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import LAN, PODS, Host, Lab, NoReply
from lab.addressing import pod_subnet
from lab.patience import patient

SERVICE = "203.0.113.25"
SERVICE6 = "2001:db8:113::25"

#: The egress IPs of ``two_holders``, on the second and third node.
FIRST, SECOND = "192.0.2.45", "192.0.2.54"
FIRST6, SECOND6 = "2001:db8:2::45", "2001:db8:2::54"


@dataclass(frozen=True)
class World:
    """How pods are connected, the IP version of the hostIPs (and so of the tunnel), and the nodes' rp_filter."""

    shape: str
    underlay: int
    rp_filter: int

    def __str__(self) -> str:
        return f"{self.shape}-IPv{self.underlay}-{'strict' if self.rp_filter else 'plain'}"


WORLDS = (World("bridge", 4, 0), World("point-to-point", 6, 1))


class EgressCluster:
    """A lab, a state directory, and an agent per node. ``settle`` waits until all agents are ready."""

    def __init__(self, lab: Lab, state: Path, world: World = WORLDS[0]) -> None:
        self.lab = lab
        self.state = state
        self.world = world
        self.agents: dict[str, subprocess.Popen[Any]] = {}
        self.logs: dict[str, Path] = {}
        #: What Python runs; see tests.support.failing.
        self.program: tuple[str, ...] = ("egress_router",)
        #: Stands before the command of every agent and controller: setpriv, env.
        self.prefix: list[str] = []
        state.mkdir(exist_ok=True)
        for number, node in enumerate(lab.nodes):
            node.sysctl("net.ipv4.conf.all.rp_filter", world.rp_filter)
            self.put(
                "HostSubnet",
                self.name(node),
                hostIP=str(node.addresses[world.underlay]),
                subnet=f"{pod_subnet(number, 4)},{pod_subnet(number, 6)}",
            )

    @staticmethod
    def name(node: Host) -> str:
        return node.name

    def put(self, kind: str, name: str, **fields: Any) -> None:
        """Write an object to a file of its own, atomically."""
        metadata = {"name": name, **fields.pop("metadata", {})}
        self._write(f"{kind}-{name}.json", {"kind": kind, "metadata": metadata, **fields})

    def _write(self, file: str, value: dict[str, Any]) -> None:
        hidden = self.state / f".{file}"
        hidden.write_text(json.dumps(value))
        hidden.rename(self.state / file)

    def change(self, kind: str, name: str, **fields: Any) -> None:
        """Replace fields of an object."""
        path = self.state / f"{kind}-{name}.json"
        self._write(path.name, {**json.loads(path.read_text()), **fields})

    def namespace(self, name: str, *ips: str) -> None:
        self.put("NetNamespace", name, netid=len(name), egressIPs=list(ips))

    def together(self, namespaces: dict[str, list[str]]) -> None:
        """Write several namespaces to one file, so that they change in one step."""
        items = [
            {"kind": "NetNamespace", "metadata": {"name": name}, "netid": len(name), "egressIPs": ips}
            for name, ips in namespaces.items()
        ]
        self._write("together.json", {"kind": "List", "items": items})

    def holds(self, node: Host, *ips: str) -> None:
        self.change("HostSubnet", self.name(node), egressIPs=list(ips))

    def pod(self, name: str, namespace: str, node: int) -> Host:
        """Make a pod, and its object."""
        pod = self.lab.pod(name, node=node)
        self.tell(pod, name, namespace, node)
        return pod

    def tell(self, pod: Host, name: str, namespace: str, node: int) -> None:
        self.put(
            "Pod",
            name,
            metadata={"namespace": namespace},
            spec={"nodeName": self.name(self.lab.nodes[node])},
            status={"podIPs": [{"ip": str(ip)} for ip in pod.addresses.values()]},
        )

    def socket_of(self, node: Host) -> Path:
        return self.state / f".{node.name}.sock"

    def start(self, *nodes: Host, **options: str) -> None:
        """Start the agents of these nodes (default: all)."""
        for node in nodes or self.lab.nodes:
            arguments = ["node", "--node", self.name(node), "--socket", str(self.socket_of(node))]
            for network in (LAN[4], LAN[6], PODS[4], PODS[6]):
                arguments += ["--cluster", str(network)]
            self.agents[node.name] = self._run(node, node.name, arguments, options)

    def start_controller(self, name: str, node: Host, **options: str) -> subprocess.Popen[Any]:
        """Start a controller on a node; ``logs`` has what it says under ``name``."""
        return self._run(node, name, ["egressip", "controller"], options)

    def _run(self, node: Host, name: str, arguments: list[str], options: dict[str, str]) -> subprocess.Popen[Any]:
        self.logs[name] = log = self.state / f".{name}.log"
        words = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", value)]
        command = [*self.prefix, sys.executable, "-m", *self.program, *arguments, "--state", str(self.state), *words]
        with log.open("ab") as file:
            return node.popen(command, stdout=file, stderr=file)

    def ask(self, node: Host, word: str = "status") -> dict[str, Any]:
        from egress_router.egressip.node.control import ask

        return ask(self.socket_of(node), word)

    def settle(self, *nodes: Host, timeout: float = 15.0) -> None:
        """Wait until these nodes (default: all) are ready and see no other one down."""

        def calm() -> bool:
            answers = [self.ask(node) for node in nodes or self.lab.nodes]
            return all(a["ready"] and not a["lacking"] and set(a["holders"].values()) <= {"up"} for a in answers)

        self.until(calm, timeout)

    def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> float:
        """Wait for a condition; return the seconds it took."""
        from egress_router.errors import TryAgainError

        start = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - start
            except (TryAgainError, NoReply):
                pass
            if time.monotonic() - start > patient(timeout):
                raise AssertionError(f"not within {patient(timeout)} s\n{self.text()}")
            time.sleep(0.02)

    def text(self) -> str:
        """Return the agents' logs."""
        return "\n".join(f"--- {name}\n{log.read_text()}" for name, log in self.logs.items())

    def source_of(self, pod: Host, target: str = SERVICE, timeout: float = 1.0) -> str:
        """Return the source address that an outside service sees."""
        return self.lab.udp(pod, target, 53, payload="x", timeout=timeout).split()[0]


def two_holders(lab: Lab, state: Path, world: World) -> EgressCluster:
    """Return a cluster whose namespace toto has FIRST on the second node and SECOND on the third; nothing runs yet."""
    for service in (SERVICE, SERVICE6):
        lab.echo(service, tcp=[80], udp=53)
    cluster = EgressCluster(lab, state, world)
    cluster.namespace("toto", FIRST, SECOND)
    cluster.holds(lab.nodes[1], FIRST)
    cluster.holds(lab.nodes[2], SECOND)
    return cluster


def one_client(cluster: EgressCluster) -> tuple[Host, str, str, Host]:
    """Start the agents of ``two_holders``; return a pod of toto on the first node, the address that it leaves with, the
    other one, and the node that holds the first.
    """
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    first = cluster.source_of(client)
    assert first in (FIRST, SECOND)
    return client, first, SECOND if first == FIRST else FIRST, cluster.lab.nodes[1 if first == FIRST else 2]


@contextmanager
def talking(send: Callable[[], str], every: float = 0.01) -> Iterator[list[tuple[float, str]]]:
    """Call ``send`` again and again in a thread; the list fills with (time, answer or "")."""
    heard: list[tuple[float, str]] = []
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            try:
                heard.append((time.monotonic(), send()))
            except (OSError, NoReply):
                heard.append((time.monotonic(), ""))
            stop.wait(every)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        stop.set()
        thread.join(5)
