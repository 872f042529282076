"""A whole cluster: control plane, nodes with real pods, services, DNS, and the world outside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from lab import process
from lab.addressing import parse
from lab.capture import Capture
from lab.dns import DnsServer
from lab.kubernetes import (
    attachments,
    builder,
    coredns,
    images,
    kube_router,
    machines,
    network,
    plan,
    product_images,
    recipes,
)
from lab.kubernetes.api_client import ApiClient, ApiError, wait_until
from lab.kubernetes.cache import Say, folder
from lab.kubernetes.children import keeper
from lab.kubernetes.control_plane import ControlPlane
from lab.kubernetes.errors import ClusterError
from lab.kubernetes.machines import CHECKOUT, Machine, Machines
from lab.kubernetes.node import Node
from lab.kubernetes.outside import MachineHost, PodHost
from lab.kubernetes.plan import API, OUTSIDE, SWITCH, Plan, address4, address6
from lab.servers import Echo, HttpServer
from lab.worker import Worker


def wanted(shape: Plan) -> list[recipes.Recipe]:
    """Return what must be built for a cluster."""
    found = [recipes.kube(shape.kube), recipes.containerd(), recipes.runc(), recipes.coredns()]
    return [*found, recipes.kube_router()] if shape.cni == "kube-router" else found


class Cluster:
    """A cluster that ends with this process unless ``leave_standing`` was called. A context manager."""

    def __init__(self, shape: Plan, say: Say) -> None:
        self.shape, self._say = shape, say
        self.programs = builder.ensure(wanted(shape), say)
        self.reaped = machines.reap()
        self.machines = Machines.create()
        self.control_plane: ControlPlane
        self.nodes: list[Node] = []
        #: The daemons of kube-router, where it is the network plugin.
        self.kube_routers: list[machines.Service] = []
        #: Seconds from the first namespace to each step, and the processor time of all programs until then.
        self.took: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}
        self._begun = time.monotonic()
        self._stays = False
        self._worker: Worker | None = None
        self._opened: list[Capture | DnsServer | Echo | HttpServer] = []
        self._dns: DnsServer | None = None

    @property
    def name(self) -> str:
        """Such as erk-1f2e3d."""
        return self.machines.name

    @property
    def api(self) -> ApiClient:
        """For requests without kubectl."""
        return self.control_plane.api.client

    @property
    def outside(self) -> MachineHost:
        """The machine with the addresses of external servers, which sees whatever leaves the cluster."""
        return self.host(OUTSIDE)

    def host(self, name: str) -> MachineHost:
        """Return a machine as a host of the lab."""
        if self._worker is None:
            self._worker = Worker()
        number = self.shape.joined[name]
        return MachineHost(self._worker, self.machines.by_name[name], [address4(number), address6(number)])

    def pod(self, name: str, namespace: str = "default") -> PodHost:
        """Return the network of a running pod; ClusterError when no container of it runs."""
        if self._worker is None:
            self._worker = Worker()
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        node = self.node(found["spec"]["nodeName"])
        return PodHost(
            self._worker,
            node.machine,
            name,
            node.pid_of(found["metadata"]["uid"]),
            [entry["ip"] for entry in found["status"]["podIPs"]],
        )

    def capture(self, name: str = OUTSIDE) -> Capture:
        """Start to capture a machine's NIC; a context manager. On ``outside``: what leaves the cluster."""
        self._opened.append(capture := Capture(self.host(name), "eth0"))
        return capture

    def echo(self, address: str, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> None:
        """Run an echo server at one of the addresses outside (plan.SERVERS); it tells each client its address."""
        self._opened.append(Echo(self.outside, parse(address), list(tcp), list(udp)))

    def http_server(self, address: str, port: int = 80) -> HttpServer:
        """Run a web server at one of the addresses outside; it tells each client its address."""
        self._opened.append(server := HttpServer(self.outside, parse(address), port))
        return server

    @property
    def dns(self) -> DnsServer:
        """The DNS server that CoreDNS asks for names outside (192.0.2.1); its records are set by tests."""
        if self._dns is None:
            self._dns = DnsServer(self.outside, list(self.outside.addresses.values()))
            self._opened.append(self._dns)
        return self._dns

    @property
    def node_machines(self) -> list[Machine]:
        """The nodes."""
        return [node.machine for node in self.nodes]

    def __enter__(self) -> Cluster:
        """Start."""
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, unless it was left standing."""
        if not self._stays:
            self.down()

    def up(self) -> None:
        """Start everything; return when all nodes are Ready and DNS answers (without a CNI: when they are registered).

        Raises ClusterError when they are not in time.
        """
        self._begun = time.monotonic()
        self._start_machines()
        with ThreadPoolExecutor(len(self.nodes) + 1) as pool:
            runtimes = [pool.submit(self._start_runtime, node) for node in self.nodes]
            self.control_plane.start()
            self._step("API server ready")
            for runtime in runtimes:
                runtime.result()
            self._make_node_objects()
            for node in self.nodes:
                node.start()
            # Not sooner: it takes the processors from the API server.
            loading = pool.submit(self._import, "coredns.tar")
            wait_until("all nodes registered", lambda: len(self._registered()) == self.shape.nodes, 120.0)
            self._step("nodes registered")
            if self.shape.cni == "kube-router":
                self._start_kube_router()
            if self.shape.cni != "none":
                wait_until("all nodes Ready", self.all_ready, 120.0)
                self._step("nodes Ready")
            loading.result()
        self.apply([*coredns.objects(), *([attachments.definition()] if self.shape.attachments else [])])
        if self.shape.cni != "none":
            self._deployment_ready(coredns.NAMESPACE, "coredns")
            self._step("DNS ready")
        self._write_record()

    def _step(self, what: str) -> None:
        self.took[what] = time.monotonic() - self._begun
        self.processor_seconds[what] = machines.processor_seconds(self.machines.by_name.values())
        self._say(f"{self.took[what]:6.1f} s  {what}")

    def _start_machines(self) -> None:
        names = self.shape.node_names
        self.machines.start([SWITCH])
        self.machines.start([OUTSIDE, API], sysctls={"net.ipv4.ip_forward": 0})
        root = [folder(), CHECKOUT]
        self.machines.start(names, root=root, sysctls=network.FORWARDING)
        for name in names:
            keeper.make_cgroup(self.name, name)
        network.connect(self.machines.by_name, self.shape)
        if self.shape.cni != "none":
            network.routes_to_pods(self.machines.by_name, self.shape, self.shape.pod_ranges)
        files = self.machines.files
        self.control_plane = ControlPlane(self.machines.by_name[API], files, self.shape, self.programs)
        server, secrets = self.control_plane.api.url, self.control_plane.api.credentials
        self.nodes = [
            Node(self.name, self.machines.by_name[name], files, self.shape, server, secrets, self.programs)
            for name in names
        ]
        images.write_busybox(files / "busybox.tar")
        images.write_program(files / "coredns.tar", images.COREDNS, self.programs["coredns"])
        self._step("machines connected")

    def _start_runtime(self, node: Node) -> None:
        if self.shape.cni == "bridge":
            self._install_bridge(node)
        if self.shape.cni == "kube-router":
            network.install_conflist(node.machine, kube_router.CONFLIST, network.kube_router_conflist())
        node.start_containerd()
        images.import_into([node.machine], self.machines.files / "busybox.tar", self.programs["ctr"])

    def _import(self, archive: str) -> None:
        images.import_into(self.node_machines, self.machines.files / archive, self.programs["ctr"])

    def _make_node_objects(self) -> None:
        """Make the objects that kubelets would make of their nodes, with their podCIDRs.

        So the pods' network is there when a kubelet starts, and nobody waits for the controller-manager, which gives
        podCIDRs to nodes that have none.
        """
        for name, (range4, range6) in self.shape.pod_ranges.items():
            spec = {"podCIDR": range4, "podCIDRs": [range4, range6]}
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}
            self.api.request("POST", "/api/v1/nodes", node)

    def _install_bridge(self, node: Node) -> None:
        network.masquerade(node.machine)
        conflist = network.bridge_conflist(self.shape.pod_ranges[node.name])
        if self.shape.attachments:
            attachments.install(node.machine)
            conflist = attachments.conflist(conflist, self.control_plane.api)
        network.install_conflist(node.machine, "10-pods.conflist", conflist)

    def _start_kube_router(self) -> None:
        """Start it on every node; it ends at once where its node's object has no address yet, which kubelets write."""
        for node in self.nodes:
            log = self.machines.files / node.name / "kube-router.log"
            kubeconfig = self.control_plane.api.kubeconfig
            daemon = kube_router.service(node.machine, self.programs["kube-router"], kubeconfig, log)
            daemon.start()
            self.kube_routers.append(daemon)

    def _registered(self) -> list[str]:
        """Return the nodes of which a kubelet has spoken, with their addresses."""
        found = {one["metadata"]["name"]: one["status"] for one in self._node_objects()}
        spoken = {name for name, said in found.items() if said.get("nodeInfo", {}).get("kubeletVersion")}
        return [name for name in spoken if found[name].get("addresses")]

    def _node_objects(self) -> list[dict[str, Any]]:
        return list(self.api.get("/api/v1/nodes")["items"])

    def pod_ranges(self) -> dict[str, list[str]]:
        """Return the podCIDRs of each node that has them."""
        return {
            node["metadata"]["name"]: node["spec"]["podCIDRs"]
            for node in self._node_objects()
            if "podCIDRs" in node["spec"]
        }

    def ready_nodes(self) -> list[str]:
        """Return the names of the nodes that are Ready."""
        return [
            node["metadata"]["name"]
            for node in self._node_objects()
            if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))
        ]

    def all_ready(self) -> bool:
        """Whether every node is Ready."""
        return len(self.ready_nodes()) == self.shape.nodes

    def _deployment_ready(self, namespace: str, name: str) -> None:
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"

        def available() -> bool:
            for daemon in self.kube_routers:
                daemon.require_running()
            return int(self.api.get(path)["status"].get("availableReplicas", 0)) > 0

        wait_until(f"{name} is available", available, 120.0)

    def apply(self, objects: Sequence[dict[str, Any]]) -> str:
        """Give objects to `kubectl apply`, with strict validation of fields."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl("apply", "--validate=strict", "-f", "-", input=text)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - the name subprocess.run has
        check: bool = True,
        timeout: float = 60.0,
    ) -> str:
        """Run kubectl as administrator and return what it printed; process.CommandFailed when it fails."""
        return self.control_plane.api.kubectl(*arguments, input=input, check=check, timeout=timeout)

    def load_products(self, *tags: str) -> None:
        """Give every node the project's images, made of this checkout (product_images), under one or several tags."""
        for tag in tags or (product_images.TAG,):
            _load_products(self.node_machines, self.machines.files, self.programs["ctr"], tag)

    def load(self, *names: str) -> None:
        """Give images that buildah, podman or docker has on this machine to every node."""
        for name in names:
            archive = self.machines.files / "loaded.tar"
            images.save(name, archive)
            images.import_into(self.node_machines, archive, self.programs["ctr"])
            archive.unlink()

    def node(self, name: str) -> Node:
        """Return a node by its name."""
        return next(node for node in self.nodes if node.name == name)

    def cut(self, name: str) -> None:
        """Unplug a machine from the LAN."""
        network.set_cable(self.machines.by_name[SWITCH], name, plugged=False)

    def heal(self, name: str) -> None:
        """Plug it in again."""
        network.set_cable(self.machines.by_name[SWITCH], name, plugged=True)

    def wait(self, what: str, holds: Callable[[], bool], timeout: float) -> float:
        """Wait as ``wait_until``; a request that fails meanwhile is no answer yet."""

        def tried() -> bool:
            with suppress(ApiError, OSError, process.CommandFailed):
                return holds()
            return False

        return wait_until(what, tried, timeout)

    def logs(self) -> dict[str, Path]:
        """Return the logs of all programs, by machine and name."""
        return {f"{path.parent.name}/{path.stem}": path for path in sorted(self.machines.files.glob("*/*.log"))}

    def _write_record(self) -> None:
        record = {
            "plan": asdict(self.shape),
            "machines": {name: asdict(machine) for name, machine in self.machines.by_name.items()},
            "programs": {name: str(path) for name, path in self.programs.items()},
            "kubectl": self.control_plane.api.kubectl_command([]),
            "took": self.took,
        }
        (self.machines.folder / "cluster.json").write_text(json.dumps(record, indent=1))

    def leave_standing(self) -> None:
        """Let the cluster outlive this block and this process; ``down`` and `scripts/cluster down` end it."""
        self.machines.stay()
        self._stays = True

    def down(self) -> None:
        """End the cluster; nothing of it is left."""
        for opened in self._opened:
            opened.close()
        if self._worker is not None:
            self._worker.close()
        self.machines.remove()


def _load_products(nodes: Sequence[Machine], files: Path, ctr: Path, tag: str) -> None:
    archive = files / "products.tar"
    product_images.write(archive, tag)
    images.import_into(nodes, archive, ctr)
    archive.unlink()


class Standing:
    """A cluster that another process made, as its record tells."""

    def __init__(self, place: Path) -> None:
        self.folder, self.name = place, place.name
        try:
            record = json.loads((place / "cluster.json").read_text())
        except FileNotFoundError:
            raise ClusterError(f"{place.name} is not ready (or no whole cluster)") from None
        self.shape = Plan(**record["plan"])
        self.machines = {name: Machine(**noted) for name, noted in record["machines"].items()}
        self.programs = {name: Path(path) for name, path in record["programs"].items()}
        self._kubectl: list[str] = record["kubectl"]

    def machine(self, name: str) -> Machine:
        """Return a machine; ClusterError with the names there are, when there is none of that one."""
        if name not in self.machines:
            raise ClusterError(f"{self.name} has no machine {name}: there are {', '.join(sorted(self.machines))}")
        return self.machines[name]

    def kubectl_command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line of kubectl."""
        return [*self._kubectl, *arguments]

    def load(self, name: str) -> None:
        """Give an image of this machine to every node."""
        archive = self.folder / "files" / "loaded.tar"
        images.save(name, archive)
        images.import_into([self.machine(node) for node in self.shape.node_names], archive, self.programs["ctr"])
        archive.unlink()

    def load_products(self, tag: str) -> None:
        """Give every node the project's images, made of this checkout."""
        nodes = [self.machine(node) for node in self.shape.node_names]
        _load_products(nodes, self.folder / "files", self.programs["ctr"], tag)

    def set_cable(self, name: str, plugged: bool) -> None:
        """Unplug a machine from the LAN, or plug it in again."""
        self.machine(name)
        network.set_cable(self.machine(plan.SWITCH), name, plugged)
