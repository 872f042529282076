"""Pods of manifests as real containers: podman and crun, in the network namespace of a lab's pod.

Only what the manifest says is done, and what the platform does for it: the macvlan of the annotation, the CNI
configuration of a network attachment, sysctls of the pod, mounted ConfigMaps.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from lab import Host, Lab

#: Where cgroups of both versions are mounted, crun refuses to start as soon as the second has a controller ("cgroups in
#: hybrid mode not supported"), even when it is to leave cgroups alone: so it does not see the second.
_WITHOUT_HYBRID = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman --runtime crun "$@"'
PODMAN = ["unshare", "--mount", "sh", "-c", _WITHOUT_HYBRID, "podman"]
#: There may be no cgroup to delegate, and limits that crun would raise are refused where this runs in a container.
RUN = ["run", "--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--pull=never"]
SDN_ANNOTATION = "pod.network.openshift.io/assign-macvlan"
MULTUS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"


def podman(*words: str, check: bool = True, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run podman; its output is in the error when it fails."""
    result = subprocess.run([*PODMAN, *words], capture_output=True, text=True, timeout=timeout, check=False)
    if check and result.returncode:
        raise AssertionError(f"podman {' '.join(words)}: {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def has_image(name: str) -> bool:
    """Whether podman's storage has an image."""
    return podman("image", "exists", name, check=False).returncode == 0


class ManifestPod:
    """The first pod of ``objects`` in a pod of ``lab``. Ends its containers when it is left.

    ``images`` gives names of images for those of the manifest. ``least`` replaces the security context of the
    containers by the least that the documentation says is enough, ``user`` the user of the main container.
    """

    def __init__(
        self,
        lab: Lab,
        objects: Sequence[Mapping[str, Any]],
        directory: Path,
        *,
        images: Mapping[str, str],
        least: Mapping[str, Any] | None = None,
        least_main: Mapping[str, Any] | None = None,
    ) -> None:
        self.lab = lab
        self.host: Host = lab.pod("router")
        self.images = images
        self.directory = directory
        self.config_maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
        workload = next(one for one in objects if one["kind"] in ("Deployment", "ReplicationController", "Pod"))
        template = workload if workload["kind"] == "Pod" else workload["spec"]["template"]
        self.spec: Mapping[str, Any] = template["spec"]
        self.least, self.least_main = least, least_main
        self.main = ""
        #: Containers beside the main one, the first of the manifest.
        self.beside: list[str] = []
        self.host.set_resolv_conf(f"nameserver {lab.dns.address}\n")
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {lab.dns.address}\n")
        self._platform(objects, template["metadata"].get("annotations", {}))

    def __enter__(self) -> ManifestPod:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.main:
            if kind:
                print(self.logs())
            podman("rm", "--force", "--time", "0", self.main, *self.beside, check=False)

    def _platform(self, objects: Sequence[Mapping[str, Any]], annotations: Mapping[str, str]) -> None:
        if annotations.get(SDN_ANNOTATION) == "true":
            self.lab.macvlan(self.host)
        for network in json.loads(annotations.get(MULTUS_ANNOTATION, "[]")):
            (attachment,) = (
                one
                for one in objects
                if one["kind"] == "NetworkAttachmentDefinition" and one["metadata"]["name"] == network["name"]
            )
            for plugin in json.loads(attachment["spec"]["config"])["plugins"]:
                if plugin["type"] == "macvlan":
                    self.lab.macvlan(self.host, name=network["interface"], mode=plugin["mode"])
                    self.host.ip(f"link set {network['interface']} up")
                for name, value in plugin.get("sysctl", {}).items():
                    self.host.sysctl(name, value)
        for item in self.spec.get("securityContext", {}).get("sysctls", []):
            self.host.sysctl(item["name"], item["value"])

    def init(self) -> str:
        """Run the init containers one after the other, to their end; return what they logged."""
        output = ""
        for container in self.spec["initContainers"]:
            result = podman(*self._run("--rm", container, self.least))
            output += result.stdout + result.stderr
        return output

    def start(self, *entrypoint: str) -> None:
        """Start the main container; ``entrypoint`` replaces its own. Then those beside it."""
        container, *others = self.spec["containers"]
        self.main = podman(*self._run("--detach", container, self.least_main, entrypoint)).stdout.strip()
        for other in others:
            self.beside.append(podman(*self._run("--detach", other, None)).stdout.strip())

    def _run(
        self,
        how: str,
        container: Mapping[str, Any],
        security: Mapping[str, Any] | None,
        entrypoint: Sequence[str] = (),
    ) -> list[str]:
        words = [
            *RUN,
            how,
            "--network",
            f"ns:{self.host.netns_path}",
            "--volume",
            f"{self.resolv_conf}:/etc/resolv.conf:ro",
        ]
        for variable in container.get("env", []):
            # What the kubelet takes from the pod's status: the node's addresses.
            path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            value = (
                ",".join(map(str, self.lab.nodes[0].addresses.values()))
                if path.startswith("status.hostIP")
                else variable["value"]
            )
            words += ["--env", f"{variable['name']}={value}"]
        whole = {"seccompProfile": self.spec.get("securityContext", {}).get("seccompProfile")}
        words += security_options(whole | container.get("securityContext", {}) if security is None else security)
        words += self._mounts(container)
        if security is not None and security is self.least_main:
            words += ["--tmpfs", "/run/egress-router:rw,mode=0777,size=64m"]
        command = [*(entrypoint or container.get("command", []))]
        if command:
            words += ["--entrypoint", json.dumps(command)]
        return [*words, self.images.get(container["image"], container["image"])]

    def _mounts(self, container: Mapping[str, Any]) -> list[str]:
        words = []
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            if "emptyDir" in volume:
                words += ["--tmpfs", f"{mount['mountPath']}:rw,mode=0777,size=64m"]
                continue
            place = self.directory / mount["name"]
            place.mkdir(exist_ok=True)
            for key, text in self.config_maps[volume["configMap"]["name"]].items():
                (place / key).write_text(text)
            words += ["--volume", f"{place}:{mount['mountPath']}:ro"]
        return words

    def probe(self, name: str = "readinessProbe") -> bool:
        """Run the probe of each container, as the kubelet does."""
        return all(self._probe(container, container[name]) for container in self.spec["containers"])

    def _probe(self, container: Mapping[str, Any], probe: Mapping[str, Any]) -> bool:
        if "exec" in probe:
            return podman("exec", self.main, *probe["exec"]["command"], check=False).returncode == 0
        port = next(port["containerPort"] for port in container["ports"] if port["name"] == probe["httpGet"]["port"])
        url = f"http://{self.host.addresses[4]}:{port}{probe['httpGet']['path']}"
        assert self.host.node is not None
        return self.host.node.run(["curl", "-sf", "-o", "/dev/null", url], check=False).returncode == 0

    def wait_ready(self, seconds: float = 30) -> None:
        """Wait until the probe succeeds."""
        self.wait_for(self.probe, seconds)

    def wait_for(self, condition: Any, seconds: float = 30) -> None:
        """Wait until ``condition`` returns true while the main container lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            state = podman("inspect", "--format", "{{.State.Status}}", self.main).stdout.strip()
            assert state in ("running", "created"), f"{state}\n{self.logs()}"
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def confinement(self) -> dict[str, tuple[str, str]]:
        """Return what the kernel says of each process of the main container, by name and number: its mode of seccomp
        (2: there is a filter) and whether execve(2) can give it new privileges (1: no). See proc_pid_status(5).
        """
        main = podman("inspect", "--format", "{{.State.Pid}}", self.main).stdout.strip()
        found = {}
        pids = [main]
        for pid in pids:
            pids += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            status = {name: value.strip() for name, _, value in lines}
            found[f"{status['Name']} {pid}"] = (status["Seccomp"], status["NoNewPrivs"])
        return found

    def logs(self) -> str:
        """Return what the containers wrote."""
        results = [podman("logs", name, check=False) for name in (self.main, *self.beside)]
        return "".join(result.stdout + result.stderr for result in results)

    def stop(self, seconds: int = 40) -> int:
        """Stop the main container as the kubelet does and return its exit code."""
        podman("stop", "--time", str(seconds), self.main)
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.main).stdout)


def security_options(context: Mapping[str, Any]) -> list[str]:
    """Return podman's words for a container's security context; podman's own profile of seccomp is RuntimeDefault."""
    words = []
    if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        words += ["--security-opt", "seccomp=unconfined"]
    if context.get("privileged"):
        words.append("--privileged")
    capabilities = context.get("capabilities", {})
    words += [f"--cap-drop={name}" for name in capabilities.get("drop", [])]
    words += [f"--cap-add={name}" for name in capabilities.get("add", [])]
    if context.get("readOnlyRootFilesystem"):
        words += ["--read-only", "--read-only-tmpfs=false"]
    if context.get("allowPrivilegeEscalation") is False:
        words += ["--security-opt", "no-new-privileges"]
    if "runAsUser" in context:
        words += ["--user", f"{context['runAsUser']}:{context.get('runAsGroup', 0)}"]
    return words


def load(text: str) -> list[dict[str, Any]]:
    """Return the objects of a YAML text."""
    return [item for item in yaml.safe_load_all(text) if item]
