"""What a workload of another egress router has besides the router: it is kept, or named as lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from egress_router.config.inputs import DNS_PROXY, HTTP_PROXY, KNOWN, ROUTER
from egress_router.manifests.containers import Container, ManifestPod, Role, pauses
from egress_router.manifests.objects import Objects, as_list, as_mapping, as_text, texts
from egress_router.manifests.plan import FORWARDING_SYSCTLS, LOW_PORTS_SYSCTL, NETWORKS_ANNOTATION, SDN_ANNOTATION
from egress_router.manifests.values import (
    HANDOVER_DELAY,
    HANDOVER_HOLD,
    HANDOVER_WAIT,
    HELD_WAIT,
    PAIR_PROXY_GRACE,
    SUCCESSION,
    SUCCESSION_GRACE,
    SUCCESSION_WAIT,
    TERMINATION_GRACE,
    Component,
    Kept,
    Note,
    NoteKind,
)

#: Labels and annotations that controllers and clients write.
_GENERATED = (
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/",
    "openshift.io/deployment",
    "openshift.io/deployer",
    "openshift.io/scc",
    "openshift.io/generated-by",
    "k8s.v1.cni.cncf.io/network",
    "k8s.ovn.org/",
    "kubernetes.io/config.",
)
OUR_LABELS = ("app.kubernetes.io/", "egress-router/router")
_POD_DEFAULTS: dict[str, Any] = {
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "terminationGracePeriodSeconds": 30,
    "securityContext": {},
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
    "hostNetwork": False,
    "hostPID": False,
    "hostIPC": False,
}
#: Fields of the pod for which ours has its own; the first ones say so elsewhere.
_POD_OURS = {
    "containers",
    "initContainers",
    "volumes",
    "nodeSelector",
    "serviceAccountName",
    "serviceAccount",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "restartPolicy",
}
_CONTAINER_DEFAULTS: dict[str, Any] = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "IfNotPresent",
    "resources": {},
}
#: Fields of our containers that are ours to say.
_CONTAINER_OURS = {
    "name",
    "image",
    "env",
    "envFrom",
    "ports",
    "securityContext",
    "volumeMounts",
    "resources",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
}
#: What a container that only waits may have, without effect on the router.
_GOES_WITH_WAITING = (
    *("command", "args", "env", "envFrom", "resources", "volumeMounts", "lifecycle"),
    *("livenessProbe", "readinessProbe", "startupProbe"),
)
_TAKEN_OVER = {
    "EGRESS_SOURCE",
    "EGRESS_GATEWAY",
    "EGRESS_ROUTER_MODE",
    "EGRESS_HTTP_PROXY_PORT",
    "EGRESS_INTERFACE",
    "EGRESS_HOST_IPS",
    "EGRESS_PAIR",
    "EGRESS_PAIR_PEERS",
    "EGRESS_PAIR_NETWORK",
    *(f"{item.destination_variable}{suffix}" for item in Component for suffix in ("", "_FILE")),
}
_OUR_HANDOVER = (
    {"name": "EGRESS_SHUTDOWN_DELAY", "value": str(HANDOVER_DELAY)},
    {"name": "EGRESS_DAD_WAIT", "value": str(HELD_WAIT)},
    {"name": "EGRESS_DAD_WAIT", "value": str(SUCCESSION_WAIT)},
    {"name": "EGRESS_HANDOVER", "value": str(HANDOVER_WAIT)},
)
#: Of a proxy alone, and of those of a pair. Elsewhere --set may say the same, and then the pod has as much time to end.
_OUR_GRACE = {"name": "EGRESS_SHUTDOWN_GRACE", "value": str(SUCCESSION_GRACE)}
_OUR_PAIR_GRACE = {"name": "EGRESS_SHUTDOWN_GRACE", "value": str(PAIR_PROXY_GRACE)}
_OUR_TIMES = tuple(TERMINATION_GRACE + hold for hold in (0, SUCCESSION, HANDOVER_HOLD))
_OF_THE_PRIVILEGED_FORM = {"EGRESS_PARENT_INTERFACE", "EGRESS_HOST_NETNS", "EGRESS_MACVLAN_MODE"}
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_OUR_NAMES = ("init", "router", "http-proxy", "dns-proxy", "tls-proxy")
_OUR_VOLUMES = ("destinations", "run", "pair")
_WORKLOAD_SILENT = {"replicas", "selector", "template", "strategy", "updateStrategy", "test", "revisionHistoryLimit"}
_WORKLOAD_DEFAULTS: dict[str, Any] = {
    "progressDeadlineSeconds": 600,
    "minReadySeconds": 0,
    "paused": False,
    "podManagementPolicy": "OrderedReady",
    "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
}
#: Filled in by admission, from a priority class or a runtime class.
_FILLED_IN = {"priority", "overhead"}
#: Fields that the API allows in a Pod alone.
_OF_PODS_ALONE = {
    "ephemeralContainers": "containers of `kubectl debug`",
    "activeDeadlineSeconds": "a router does not end",
}


@dataclass(slots=True)
class Notebook:
    """Notes about one object of the old manifest."""

    where: str
    notes: list[Note] = field(default_factory=list)

    def add(self, kind: NoteKind, text: str) -> None:
        """Note something."""
        self.notes.append(Note(kind, self.where, text))

    def same(self, text: str) -> None:
        """Note what is as it was."""
        self.add(NoteKind.SAME, text)

    def changed(self, text: str) -> None:
        """Note what ours does another way."""
        self.add(NoteKind.CHANGED, text)

    def lost(self, text: str) -> None:
        """Note what has no place in ours."""
        self.add(NoteKind.LOST, text)


def kept_of(pod: ManifestPod, component: Component, objects: Objects, note: Notebook, *, ours: bool) -> Kept:
    """Return what of a pod has nothing to do with the router; what is neither kept nor replaced is noted as lost.

    ``ours`` says that the pod is one that `manifests` wrote.
    """
    return _Reader(pod, component, objects, note, ours).kept()


class _Reader:
    def __init__(self, pod: ManifestPod, component: Component, objects: Objects, note: Notebook, ours: bool) -> None:
        self._pod = pod
        self._component = component
        self._objects = objects
        self._note = note
        self._ours = ours
        self._list_mounts = {
            id(mount)
            for container in pod.containers
            for name, mount in container.mounts.items()
            if name == f"{component.destination_variable}_FILE"
        }
        self._list_volumes = {
            as_text(mount.get("name"))
            for container in pod.containers
            for mount in container.mounts.values()
            if id(mount) in self._list_mounts
        }

    @property
    def _pair(self) -> bool:
        return any(container.env.get("EGRESS_PAIR") for container in self._pod.ours)

    def kept(self) -> Kept:
        """Read everything."""
        item, spec = self._pod.item, self._pod.item.pod_spec
        setter = self._pod.with_role(Role.INIT) or self._pod.with_role(Role.RUN)
        main = self._main(setter)
        routers = {id(one) for one in self._pod.ours}
        before: list[Container] = []
        after: list[Container] = []
        sidecars: list[Container] = []
        seen = False
        for container in self._pod.containers:
            if container is setter:
                seen = True
            if id(container) in routers:
                continue
            if not container.init:
                if pauses(container):
                    self._about_waiting(container)
                else:
                    sidecars.append(container)
            else:
                (after if seen else before).append(container)
        init_fields: dict[str, Any] = {}
        main_fields: dict[str, Any] = {}
        for container in self._pod.ours:
            if container is not main and container is not setter:
                if self._ours and Role.RUN in container.roles and self._pair:
                    # That of a pair, beside its proxy.
                    continue
                self._note.lost(f"the container {container.name}: a pod has one router here, the {self._component}")
                continue
            target = main_fields if container is main else init_fields
            self._router_container(container, target)
            if self._component is Component.REDIRECT and not self._ours:
                # Both containers of ours read what the one of old did.
                other = init_fields if target is main_fields else main_fields
                shared = [one for one in target.get("env", ()) if as_text(one.get("name")) in ROUTER]
                if shared:
                    other["env"] = [*other.get("env", ()), *shared]
        others = [*before, *after, *sidecars]
        for container in others:
            what = "init container" if container.init else "container"
            if not self._ours:
                self._note.same(f"the {what} {container.name}")
        raw = {id(one): self._foreign(one) for one in others}
        security = self._security(as_mapping(spec.get("securityContext")), list(raw.values()))
        if others and not self._ours:
            self._about_others(spec)
        mounted = {
            as_text(mount.get("name"))
            for one in (*raw.values(), init_fields, main_fields)
            for mount in as_list(one.get("volumeMounts"))
        }
        self._workload_fields()
        return Kept(
            labels=self._entries(item.metadata.get("labels"), labels=True),
            annotations=self._entries(item.metadata.get("annotations")) if item.kind != "Pod" else {},
            pod_labels=self._entries(item.pod_labels, labels=True),
            pod_annotations=self._entries(item.pod_annotations),
            spec=self._spec(spec),
            security=security,
            volumes=tuple(self._volumes(spec, mounted)),
            before=tuple(raw[id(one)] for one in before),
            after=tuple(raw[id(one)] for one in after),
            sidecars=tuple(raw[id(one)] for one in sidecars),
            init=init_fields,
            main=main_fields,
        )

    def _main(self, setter: Container | None) -> Container | None:
        """Return the container that ours has as its main one: the proxy, or the router that stays."""
        for role in (Role.HTTP, Role.DNS, Role.RUN):
            found = self._pod.with_role(role)
            if found is not None and (found is not setter or not self._pod.with_role(Role.INIT)):
                return found
        return None

    def _entries(self, value: Any, *, labels: bool = False) -> dict[str, str]:
        found = {}
        for key, item in texts(value).items():
            if key in (SDN_ANNOTATION, NETWORKS_ANNOTATION) or key.startswith(_GENERATED):
                continue
            if labels and key.startswith(OUR_LABELS):
                if not self._ours:
                    self._note.changed(f"the label {key}={item} is ours now")
                continue
            found[key] = item
        return found

    def _spec(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in spec.items():
            if key in _POD_OURS or key in _FILLED_IN or value is None or _POD_DEFAULTS.get(key, _MISSING) == value:
                continue
            if key == "securityContext" or (key == "nodeName" and self._scheduled()):
                continue
            if key in _OF_PODS_ALONE:
                self._note.lost(f"{key}, which a pod alone may have ({_OF_PODS_ALONE[key]})")
            elif key == "tolerations":
                tolerations = [one for one in as_list(value) if one.get("key") not in _TAINTS]
                if tolerations:
                    kept[key] = tolerations
            elif key == "terminationGracePeriodSeconds":
                if not (self._ours and value in _OUR_TIMES):
                    kept[key] = value
            elif key == "affinity" and self._ours and "app.kubernetes.io/instance" in str(value):
                continue
            else:
                kept[key] = value
        if not self._ours:
            for key in kept:
                self._note.same(f"{key}, a field of the pod")
            account = as_text(spec.get("serviceAccountName") or spec.get("serviceAccount"))
            if account and account != "default":
                self._note.changed(f"the service account {account} is replaced by the router's own")
            if (policy := as_text(spec.get("restartPolicy"))) not in ("", "Always"):
                self._note.changed(f"restartPolicy is Always, it was {policy}")
            for key in ("hostPID", "hostIPC"):
                if spec.get(key) is True:
                    self._note.changed(f"{key} is not needed: the interface comes with the pod")
        return kept

    def _scheduled(self) -> bool:
        """Return whether the scheduler has chosen the pod's node, not the one who wrote the pod."""
        item = self._pod.item
        return item.kind == "Pod" and ("status" in item.raw or "uid" in item.metadata)

    def _security(self, context: Mapping[str, Any], foreign: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the securityContext of the pod. That nobody is root cannot be said of the whole pod: it goes to the
        other containers.
        """
        kept = {key: value for key, value in context.items() if value not in (None, [], {})}
        if sysctls := [one for one in as_list(kept.pop("sysctls", None)) if as_text(one.get("name"))]:
            kept["sysctls"] = sysctls
        if self._ours and kept.pop("sysctls", None):
            redirect = self._component is Component.REDIRECT
            own = set(FORWARDING_SYSCTLS.values()) if redirect else {LOW_PORTS_SYSCTL}
            if others := [one for one in sysctls if one.get("name") not in own]:
                kept["sysctls"] = others
        if kept.pop("runAsNonRoot", None) is True:
            for container in foreign:
                container["securityContext"] = {"runAsNonRoot": True, **as_mapping(container.get("securityContext"))}
            what = "is said of each of the other containers" if foreign else "is not said of the pod"
            self._note.changed(f"runAsNonRoot {what}: the router's own containers say what they are")
        if kept and not self._ours:
            self._note.same(f"securityContext of the pod ({', '.join(kept)})")
        return kept

    def _about_others(self, spec: Mapping[str, Any]) -> None:
        """Say what the pod no longer gives to containers that are not ours."""
        if spec.get("automountServiceAccountToken") is not False:
            self._note.changed("containers have no token of a service account (automountServiceAccountToken: false)")
        if spec.get("enableServiceLinks") is not False:
            self._note.changed("containers have no variables of Services (enableServiceLinks: false)")

    def _volumes(self, spec: Mapping[str, Any], mounted: set[str]) -> Iterable[dict[str, Any]]:
        for volume in as_list(spec.get("volumes")):
            name = as_text(volume.get("name"))
            if self._ours and name in _OUR_VOLUMES:
                continue
            if self._volume_name(name) in mounted:
                yield {**volume, "name": self._volume_name(name)}
            elif name not in self._list_volumes and not name.startswith(("kube-api-access-", "default-token-")):
                if (
                    "secret" in volume
                    and name.endswith(tuple("0123456789abcdefghijklmnopqrstuvwxyz"))
                    and "-token-" in name
                ):
                    continue
                if any(as_text(one.get("name")) == name for one in self._all_mounts()):
                    self._note.lost(f"the volume {name}, which nothing mounts any more")
                else:
                    self._note.changed(f"the volume {name}, which nothing mounted, is not written")

    def _all_mounts(self) -> Iterable[Mapping[str, Any]]:
        return (mount for one in self._pod.containers for mount in as_list(one.raw.get("volumeMounts")))

    def _volume_name(self, name: str) -> str:
        return f"{name}-kept" if name in _OUR_VOLUMES and not self._ours else name

    def _mounts(self, container: Container) -> list[dict[str, Any]]:
        found = []
        for mount in as_list(container.raw.get("volumeMounts")):
            name = as_text(mount.get("name"))
            if as_text(mount.get("mountPath")) == _TOKEN or id(mount) in self._list_mounts:
                continue
            if self._ours and name in _OUR_VOLUMES and container.roles:
                continue
            found.append({**mount, "name": self._volume_name(name)})
        return found

    def _foreign(self, container: Container) -> dict[str, Any]:
        """Return another container as it is, without what the API server fills in."""
        raw = {
            key: value
            for key, value in container.raw.items()
            if _CONTAINER_DEFAULTS.get(key, _MISSING) != value and key not in ("volumeMounts", "nodeSelector")
        }
        if container.name in _OUR_NAMES:
            raw["name"] = f"{container.name}-kept"
            self._note.changed(f"the container {container.name} is called {raw['name']}: the name is ours")
        for key in ("serviceAccountName", "serviceAccount", "nodeSelector"):
            raw.pop(key, None)
        if mounts := self._mounts(container):
            raw["volumeMounts"] = mounts
        return raw

    def _router_container(self, container: Container, target: dict[str, Any]) -> None:
        if env := self._environment(container):
            target["env"] = [*target.get("env", ()), *env]
        if mounts := self._mounts(container):
            target["volumeMounts"] = mounts
        resources = as_mapping(container.raw.get("resources"))
        if resources and not self._ours:
            target["resources"] = resources
            self._note.same(f"resources of the container {container.name}")
        elif resources and resources not in _OUR_RESOURCES:
            target["resources"] = resources
        if not self._ours:
            self._about_ours(container)
        for key, value in container.raw.items():
            if key in _CONTAINER_OURS or _CONTAINER_DEFAULTS.get(key, _MISSING) == value or value in (None, [], {}):
                continue
            if key in ("serviceAccountName", "serviceAccount", "nodeSelector", "hostNetwork"):
                continue
            if key == "lifecycle" and self._ours:
                continue
            if key == "imagePullPolicy":
                target[key] = value
            elif key in ("command", "args"):
                if not self._ours and not _starts_us(container):
                    self._note.lost(f"{key} of the container {container.name}: ours has its own")
            else:
                self._note.lost(f"{key} of the container {container.name}")

    def _about_waiting(self, container: Container) -> None:
        """Say that the container that kept the pod alive is not needed, and what goes with it."""
        if self._ours:
            return
        gone = [key for key in _GOES_WITH_WAITING if container.raw.get(key)]
        more = f"; with it {'go' if len(gone) > 1 else 'goes'} its {', '.join(gone)}" if gone else ""
        self._note.changed(f"the container {container.name}, which only waited, is not written: ours stays{more}")
        self._about_host_ports(container)

    def _about_host_ports(self, container: Container) -> None:
        ports = [as_text(one.get("hostPort")) for one in as_list(container.raw.get("ports")) if "hostPort" in one]
        if ports:
            self._note.lost(f"hostPort {', '.join(ports)} of the container {container.name}: clients use the Service")

    def _about_ours(self, container: Container) -> None:
        """Say what a router's container has that is ours to say."""
        self._about_host_ports(container)
        if probes := [key for key in ("livenessProbe", "readinessProbe", "startupProbe") if key in container.raw]:
            self._note.changed(f"{', '.join(probes)} of the container {container.name}: ours has its own")
        usual = {"privileged", "capabilities", "runAsUser", "allowPrivilegeEscalation", "procMount"}
        if more := sorted(as_mapping(container.raw.get("securityContext")).keys() - usual):
            self._note.changed(f"the securityContext of the container {container.name} is ours ({', '.join(more)})")

    def _environment(self, container: Container) -> list[dict[str, Any]]:
        """Return the variables that ours does not set itself."""
        own = {as_text(one.get("name")): one for one in as_list(container.raw.get("env"))}
        reads = {*ROUTER} if container.roles & {Role.INIT, Role.RUN} else {*HTTP_PROXY, *DNS_PROXY, *ROUTER}
        if len(container.roles) > 1:
            reads = set(KNOWN)
        found = []
        own.pop("", None)
        for name, raw in own.items():
            if name in _TAKEN_OVER or (self._ours and self._is_written_anyway(container, raw)):
                continue
            if name in _OF_THE_PRIVILEGED_FORM:
                self._note.changed(f"{name} is not needed: the interface comes with the pod")
            elif name.startswith("EGRESS_") and name not in reads:
                what = "is not read there" if name in KNOWN else "is no variable of an egress router"
                self._note.lost(f"{name} of the container {container.name}, which {what}")
            else:
                found.append(raw)
                if not self._ours:
                    self._note.same(f"{name} of the container {container.name}")
        for source in as_list(container.raw.get("envFrom")):
            found += self._from(container, source, own)
        return found

    def _is_written_anyway(self, container: Container, raw: Mapping[str, Any]) -> bool:
        """Return whether a variable of ours is one that `manifests` writes without being asked."""
        if self._pair:
            return raw == _OUR_PAIR_GRACE and self._component is not Component.REDIRECT
        if raw != _OUR_GRACE:
            return raw in _OUR_HANDOVER
        hook = as_mapping(as_mapping(container.raw.get("lifecycle")).get("preStop"))
        return as_mapping(hook.get("exec")).get("command") == ["sleep", str(SUCCESSION)]

    def _from(self, container: Container, source: Mapping[str, Any], own: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the variables of an ``envFrom`` one by one: those of a router would contradict ours."""
        found = []
        for kind, field_, key_field in (
            ("ConfigMap", "configMapRef", "configMapKeyRef"),
            ("Secret", "secretRef", "secretKeyRef"),
        ):
            name = as_text(as_mapping(source.get(field_)).get("name"))
            if not name:
                continue
            item = self._objects.find(kind, self._pod.item.namespace, name)
            if item is None:
                self._note.lost(f"envFrom of the container {container.name}: the {kind} {name} is not in the files")
                continue
            keys = [*as_mapping(item.raw.get("data")), *as_mapping(item.raw.get("stringData"))]
            for key in keys:
                variable = f"{as_text(source.get('prefix'))}{key}"
                if variable in own or variable in _TAKEN_OVER:
                    continue
                found.append({"name": variable, "valueFrom": {key_field: {"name": name, "key": key}}})
            self._note.changed(
                f"envFrom of the container {container.name} ({kind} {name}) is written variable by variable"
            )
        return found

    def _workload_fields(self) -> None:
        item = self._pod.item
        if item.kind == "Pod":
            return
        if item.spec.get("replicas") == 0:
            self._note.changed("has one replica and starts; it had none")
        if item.job_spec:
            extra = ", ".join(sorted((item.spec | item.job_spec).keys() - {"template", "jobTemplate", "selector"}))
            self._note.changed(f"goes on, as no {item.kind} does{f': {extra} mean nothing any more' if extra else ''}")
            return
        for key, value in item.spec.items():
            if key in _WORKLOAD_SILENT or _WORKLOAD_DEFAULTS.get(key, _MISSING) == value or value in (None, [], {}):
                continue
            if key == "triggers":
                self._note.lost("triggers: a new image no longer starts the pod anew by itself")
            else:
                self._note.lost(f"{key}, a field of the {item.kind}")


def _starts_us(container: Container) -> bool:
    """Return whether command and arguments are those of egress-router itself."""
    words = [*(container.raw.get("command") or ()), *(container.raw.get("args") or ())]
    return container.known and any(isinstance(word, str) and word.endswith("egress-router") for word in words)


_MISSING = object()
_OUR_RESOURCES = tuple(
    {"requests": {"cpu": cpu, "memory": request}, "limits": {"memory": limit}}
    for cpu, request, limit in (
        ("50m", "64Mi", "256Mi"),
        ("100m", "128Mi", "1Gi"),
        ("100m", "64Mi", "512Mi"),
    )
)
