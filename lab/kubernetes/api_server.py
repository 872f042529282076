"""An API server with etcd inside, alone or as part of a cluster."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import process
from lab.kubernetes import credentials
from lab.kubernetes.api_client import ApiClient, wait_until
from lab.kubernetes.credentials import Credentials
from lab.kubernetes.machines import Machine, Service

SERVICES = ("172.30.0.0/16", "fd02::/112")
KUBERNETES_SERVICE = ("172.30.0.1", "fd02::1")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an API server listens; the two ports of etcd are on loopback of the same network namespace."""

    address: str
    port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380

    @classmethod
    def on_loopback(cls) -> Endpoint:
        """Return one with ports that are free on 127.0.0.1 now."""
        holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [holder.getsockname()[1] for holder in holders]
        for holder in holders:
            holder.close()
        return cls("127.0.0.1", *ports)

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"https://{self.address}:{self.port}"


def arguments(endpoint: Endpoint, folder: Path, extra: Sequence[str] = ()) -> list[str]:
    """Return the server's arguments: users have the rights that RBAC and the Node authorizer give, as is usual."""
    return [
        f"--etcd-servers=http://127.0.0.1:{endpoint.etcd_port}",
        f"--bind-address={endpoint.address}",
        f"--secure-port={endpoint.port}",
        f"--advertise-address={endpoint.address}",
        # With a loopback address to advertise no endpoint of the Service "kubernetes" can be written.
        *(["--endpoint-reconciler-type=none"] if endpoint.address.startswith("127.") else []),
        f"--tls-cert-file={folder}/server.crt",
        f"--tls-private-key-file={folder}/server.key",
        f"--cert-dir={folder}",
        f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={','.join(SERVICES)}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={folder}/accounts.pub",
        f"--service-account-signing-key-file={folder}/accounts.key",
        # Else `exec` and `logs` look the node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP",
        *extra,
    ]


class ApiServer:
    """A running API server. ``stop``, ``start`` and ``kill`` leave its data; ``save`` and ``restore`` copy them."""

    def __init__(
        self,
        machine: Machine,
        kube: Path,
        folder: Path,
        endpoint: Endpoint,
        users: Sequence[str] = (),
        flags: Sequence[str] = (),
        *,
        roles: bool = True,
    ) -> None:
        """``roles``: it is ready when it has made the roles that every cluster has. It waits for a second before that
        (pkg/registry/rbac/rest, PostStartHook), in which an administrator needs none.
        """
        self.machine, self.kube, self.folder, self.endpoint, self.roles = machine, kube, folder, endpoint, roles
        self.credentials: Credentials = credentials.make(
            folder, [credentials.ADMIN, *users], [endpoint.address, *KUBERNETES_SERVICE, "127.0.0.1"]
        )
        self.service = Service(
            machine,
            "apiserver",
            [str(kube), "apiserver", *arguments(endpoint, folder, flags)],
            folder / "apiserver.log",
            {
                "ETCD_DIR": str(folder / "etcd"),
                "ETCD_PORT": str(endpoint.etcd_port),
                "ETCD_PEER_PORT": str(endpoint.etcd_peer_port),
                # A fifth of the processor time of a start is the collection of garbage.
                "GOGC": "400",
                "GOMEMLIMIT": "512MiB",
            },
        )
        self.client = ApiClient(machine.network, endpoint.address, endpoint.port, self.ca, self.token)
        self.kubeconfig = self.credentials.kubeconfig(self.url)

    @property
    def url(self) -> str:
        """Where it is, in its network namespace."""
        return self.endpoint.url

    @property
    def ca(self) -> Path:
        """The PEM file to verify it with."""
        return self.credentials.ca

    @property
    def token(self) -> str:
        """A bearer token of a user in system:masters."""
        return self.credentials.tokens[credentials.ADMIN]

    def start(self, timeout: float = 120.0) -> float:
        """Start it and return after how many seconds it was ready; ClusterError with its log's end when it is not."""
        self.service.start()

        def ready() -> bool:
            self.service.require_running()
            return self.client.ready(roles=self.roles)

        return wait_until("the API server is ready", ready, timeout, 0.03)

    def stop(self) -> None:
        """End it as a shutdown does."""
        self.service.stop(signal.SIGTERM, 30.0)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.service.stop(signal.SIGKILL)

    def save(self, name: str = "saved") -> None:
        """Keep a copy of etcd's data under a name. The server is killed and started for it."""
        self.kill()
        shutil.copytree(self.folder / "etcd", self.folder / f"etcd-{name}")
        self.start()

    def restore(self, name: str = "saved") -> None:
        """Go back to a copy: resource versions are then lower than clients have seen."""
        self.kill()
        shutil.rmtree(self.folder / "etcd")
        shutil.copytree(self.folder / f"etcd-{name}", self.folder / "etcd")
        self.start()

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - the name subprocess.run has
        check: bool = True,
        timeout: float = 60.0,
    ) -> str:
        """Run kubectl as administrator and return what it printed; process.CommandFailed when it fails."""
        return process.run(self.kubectl_command(arguments), check=check, timeout=timeout, input=input).stdout

    def kubectl_command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line of kubectl: with this machine's files, in the server's network."""
        enter = ["nsenter", f"--net={self.machine.network}", "--"]
        return [*enter, str(self.kube), "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
