"""API server, controller-manager and scheduler on a machine of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.kubernetes import credentials, plan
from lab.kubernetes.api_server import ApiServer, Endpoint
from lab.kubernetes.machines import Machine, Service
from lab.kubernetes.plan import Plan, address4


class ControlPlane:
    """The three programs. Each speaks to the API server as the user that an ordinary cluster has for it."""

    def __init__(self, machine: Machine, files: Path, shape: Plan, programs: Mapping[str, Path]) -> None:
        self.folder = files / machine.name
        kube = programs["kube"]
        users = [credentials.CONTROLLER_MANAGER, credentials.SCHEDULER, credentials.PROXY]
        users += [credentials.node_user(name) for name in shape.node_names]
        endpoint = Endpoint(address4(shape.joined[plan.API]))
        self.api = ApiServer(machine, kube, self.folder, endpoint, users)
        manager = self._config(credentials.CONTROLLER_MANAGER)
        self.controller_manager = self._service(
            machine,
            [
                *(str(kube), "controller-manager", *manager),
                f"--service-account-private-key-file={self.folder}/accounts.key",
                f"--root-ca-file={self.api.ca}",
                "--use-service-account-credentials=true",
                "--allocate-node-cidrs=true",
                f"--cluster-cidr={plan.PODS4},{plan.PODS6}",
                f"--node-cidr-mask-size-ipv4={plan.NODE_PODS4}",
                f"--node-cidr-mask-size-ipv6={plan.NODE_PODS6}",
                f"--node-monitor-grace-period={shape.node_grace}s",
                # Each of forty controllers asks for a token first: with the default of 20 requests a second the last
                # ones, among them those of nodes and Deployments, start 5 s late.
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
            ],
        )
        self.scheduler = self._service(machine, [str(kube), "scheduler", *self._config(credentials.SCHEDULER)])

    def _config(self, user: str) -> list[str]:
        kubeconfig = self.api.credentials.kubeconfig(self.api.url, user)
        of_both = [f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-")]
        return [*of_both, "--leader-elect=false", "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/{user[12:]}"]

    def _service(self, machine: Machine, argv: list[str]) -> Service:
        return Service(machine, argv[1], argv, self.folder / f"{argv[1]}.log")

    def start(self) -> None:
        """Start the API server and, when it is ready, the other two."""
        self.api.start()
        self.controller_manager.start()
        self.scheduler.start()
