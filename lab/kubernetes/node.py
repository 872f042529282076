"""One node: containerd with runc, a kubelet, kube-proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.kubernetes import credentials, network, plan
from lab.kubernetes.api_client import wait_until
from lab.kubernetes.children.keeper import CGROUP
from lab.kubernetes.credentials import Credentials
from lab.kubernetes.errors import ClusterError
from lab.kubernetes.images import BUSYBOX
from lab.kubernetes.machines import Machine, Service
from lab.kubernetes.plan import Plan, address4, address6

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def containerd_config(runc: Path) -> str:
    """Return containerd's configuration (version 3).

    No CAP_SYS_RESOURCE is needed to lower a score, AppArmor is not asked for, and the sandbox image is there.
    """
    places = ", ".join(f"'{place}'" for place in network.CNI_BINARIES)
    cri = "io.containerd.cri.v1"
    return f"""version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[grpc]
  address = '{CONTAINERD_SOCKET}'
[plugins.'{cri}.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins.'{cri}.runtime'.cni]
  bin_dirs = [{places}]
  conf_dir = '{network.CNI_FOLDER}'
[plugins.'{cri}.runtime'.containerd]
  default_runtime_name = 'runc'
[plugins.'{cri}.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'{cri}.runtime'.containerd.runtimes.runc.options]
  BinaryName = '{runc}'
  SystemdCgroup = false
[plugins.'{cri}.images']
  snapshotter = 'overlayfs'
[plugins.'{cri}.images'.pinned_images]
  sandbox = '{BUSYBOX}'
"""


def kubelet_config(cluster: str, node: str, folder: Path) -> dict[str, Any]:
    """Return the KubeletConfiguration of a node. Its containers' cgroups lie under one that tear-down removes."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupRoot": f"/{CGROUP}/{cluster}/{node}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": [plan.DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),
        # The disk belongs to the machine below: that it is nearly full is nothing to evict pods for.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "10Mi"},
        "localStorageCapacityIsolation": False,
        "oomScoreAdj": 0,
        "registerWithTaints": [],
    }


def proxy_config(mode: str, node: str, kubeconfig: Path) -> dict[str, Any]:
    """Return the KubeProxyConfiguration of a node; limits of the whole machine's connection tracking are left alone."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "hostnameOverride": node,
        "clusterCIDR": f"{plan.PODS4},{plan.PODS6}",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


class Node:
    """A node's machine and the three programs on it."""

    def __init__(
        self,
        cluster: str,
        machine: Machine,
        files: Path,
        shape: Plan,
        server: str,
        secrets: Credentials,
        programs: Mapping[str, Path],
    ) -> None:
        self.name, self.machine, self.folder = machine.name, machine, files / machine.name
        host = shape.joined[self.name]
        self.addresses = (address4(host), address6(host))
        self._ctr = programs["ctr"]
        kubelet = secrets.kubeconfig(server, credentials.node_user(self.name))
        proxy = secrets.kubeconfig(server, credentials.PROXY)
        self._write("containerd.toml", containerd_config(programs["runc"]))
        self._write("kubelet.json", json.dumps(kubelet_config(cluster, self.name, self.folder), indent=1))
        self._write("proxy.json", json.dumps(proxy_config(shape.proxy, self.name, proxy), indent=1))
        self._write("resolv.conf", f"nameserver {address4(1)}\n")
        # The shim is looked for in PATH.
        path = {"PATH": f"{programs['containerd'].parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        kube, folder = str(programs["kube"]), self.folder
        self.containerd = self._service(
            "containerd", [str(programs["containerd"]), "--config", f"{folder}/containerd.toml"], path
        )
        self.kubelet = self._service(
            "kubelet",
            [
                kube,
                "kubelet",
                f"--config={folder}/kubelet.json",
                f"--kubeconfig={kubelet}",
                f"--hostname-override={self.name}",
                f"--node-ip={','.join(self.addresses)}",
                "--cert-dir=/var/lib/kubelet/pki",
            ],
            path,
        )
        self.proxy = self._service("proxy", [kube, "proxy", f"--config={folder}/proxy.json"], path)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def _service(self, name: str, argv: list[str], env: Mapping[str, str]) -> Service:
        return Service(self.machine, name, argv, self.folder / f"{name}.log", env)

    def start_containerd(self, timeout: float = 60.0) -> None:
        """Start containerd and wait until it answers."""
        self.containerd.start()

        def answers() -> bool:
            self.containerd.require_running()
            socket = Path(f"/proc/{self.machine.pid}/root{CONTAINERD_SOCKET}")
            return socket.is_socket() and self.machine.run([str(self._ctr), "version"], check=False) != ""

        wait_until(f"containerd on {self.name} answers", answers, timeout)

    def start(self) -> None:
        """Start the kubelet and kube-proxy."""
        self.kubelet.start()
        self.proxy.start()

    def pid_of(self, uid: str) -> int:
        """Return a process of the pod with this UID, as the node sees it; ClusterError when none runs."""
        ctr = [str(self._ctr), "-n", "k8s.io"]
        filters = f'labels."io.kubernetes.pod.uid"=={uid}'
        containers = self.machine.run([*ctr, "containers", "list", "--quiet", filters]).split()
        for line in self.machine.run([*ctr, "tasks", "list"]).splitlines()[1:]:
            container, pid, state = line.split()[:3]
            if container in containers and state == "RUNNING":
                return int(pid)
        raise ClusterError(f"no container of pod {uid} runs on {self.name}")
