"""Pods of origin-egress-router, -http-proxy and -dns-proxy → LegacyRouter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from egress_router.config.inputs import DNS_PROXY, HTTP_PROXY, Problems
from egress_router.config.manifest import ManifestPod, as_list, as_mapping, manifest_pods, name_of, pod_spec_of
from egress_router.errors import ConfigurationError
from egress_router.manifests.values import Component, Kind, LegacyRouter, ManifestRequest, Note, NoteKind, Platform

#: What may make pods, besides a bare Pod.
WORKLOADS = ("Pod", "Deployment", "ReplicationController", "DeploymentConfig", "DaemonSet", "StatefulSet", "ReplicaSet")
ANNOTATION = "pod.network.openshift.io/assign-macvlan"
_CARRIED = {"EGRESS_SOURCE", "EGRESS_GATEWAY", "EGRESS_ROUTER_MODE", "EGRESS_HTTP_PROXY_PORT"}
_KEPT_FIELDS = {"containers", "initContainers", "volumes", "nodeSelector", "serviceAccountName", "serviceAccount"}
_HARMLESS = {"restartPolicy", "terminationGracePeriodSeconds", "dnsPolicy", "securityContext", "schedulerName"}


@dataclass(slots=True)
class _Notes:
    where: str
    notes: list[Note]

    def wrong(self, text: str) -> None:
        self.notes.append(Note(NoteKind.WRONG, self.where, text))

    def changed(self, text: str) -> None:
        self.notes.append(Note(NoteKind.CHANGED, self.where, text))


def read_pods(
    text: str,
    label: str,
    objects: list[dict[str, Any]],
    defaults: ManifestRequest,
    problems: Problems,
    notes: list[Note],
) -> list[LegacyRouter]:
    """Return a router for each pod template that has EGRESS_* variables."""
    try:
        pods = {pod.name: pod for pod in manifest_pods(text, label, problems)}
    except ConfigurationError:
        return []
    routers = []
    for item in objects:
        where = f"{item.get('kind')}/{name_of(item)}"
        spec = pod_spec_of(item)
        if spec is not None and where in pods:
            router = _router(item, spec, pods[where], defaults, problems, _Notes(where, notes))
            routers += [router] if router is not None else []
    return routers


def _router(
    item: Mapping[str, Any],
    spec: Mapping[str, Any],
    pod: ManifestPod,
    defaults: ManifestRequest,
    problems: Problems,
    note: _Notes,
) -> LegacyRouter | None:
    component = _component(pod)
    kind = _workload(item, defaults, note)
    _containers(spec, component, note)
    _variables(pod, component, note)
    _rest_of_pod(item, spec, defaults, note)
    variable = component.destination_variable
    source = pod.inputs.list_text(variable, problems)
    if source is None:
        for name in (variable, f"{variable}_FILE"):
            if name in pod.outside:
                message = f"comes from {pod.outside[name]}"
                problems.error(f"{note.where} {name}", None, "", message, "the ConfigMap in the same file")
                return None
        problems.error(f"{note.where} {variable}", None, "", "is not set", "the list of destinations")
        return None
    selector = as_mapping(spec.get("nodeSelector"))
    request = replace(
        defaults,
        component=component,
        name=name_of(item),
        namespace=str(as_mapping(item.get("metadata")).get("namespace") or defaults.namespace),
        kind=kind,
        node_selector=defaults.node_selector or tuple((str(key), str(value)) for key, value in selector.items()),
        headless=_fallback_alone(component, source.text),
    )
    if request.headless:
        note.changed("the Service is headless: with a fallback alone, clients may ask for any port")
    name = f"{note.where} {source.variable}"
    env = pod.env
    gateway, http_port = env.get("EGRESS_GATEWAY", ""), env.get("EGRESS_HTTP_PROXY_PORT")
    return LegacyRouter(note.where, request, env.get("EGRESS_SOURCE", ""), gateway, source.text, name, http_port)


def _component(pod: ManifestPod) -> Component:
    names = pod.env.keys() | pod.outside.keys()
    if names & {name for name in HTTP_PROXY if "DESTINATION" in name}:
        return Component.HTTP_PROXY
    if names & {name for name in DNS_PROXY if "DESTINATION" in name}:
        return Component.DNS_PROXY
    return Component.REDIRECT


def _fallback_alone(component: Component, text: str) -> bool:
    lines = [line.split("#")[0].split() for line in text.splitlines()]
    return component is Component.REDIRECT and {len(words) for words in lines if words} == {1}


def _workload(item: Mapping[str, Any], defaults: ManifestRequest, note: _Notes) -> Kind:
    kind, spec = str(item.get("kind")), as_mapping(item.get("spec"))
    replicas = spec.get("replicas", 1)
    if kind == "Pod":
        note.wrong("a bare Pod is not started again when its node is gone")
    if kind == "DaemonSet":
        note.wrong("a DaemonSet runs a pod on every node, all with one address; ours is one pod")
    if isinstance(replicas, int) and replicas > 1:
        note.wrong(f"{replicas} replicas had one address at the same time; ours is one")
    strategy = as_mapping(spec.get("strategy")).get("type")
    if kind == "Deployment" and strategy != "Recreate":
        note.wrong("a rolling update runs the new pod beside the old one, both with one address; ours is Recreate")
    if kind == "DeploymentConfig" and strategy != "Recreate":
        note.wrong("a rolling deployment runs the new pod beside the old one, both with one address; ours is Recreate")
    if kind == "ReplicationController":
        if defaults.kind is Kind.DEPLOYMENT:
            note.changed(
                "is a Deployment: a changed manifest makes a new pod, which a ReplicationController does not do "
                "(--kind ReplicationController keeps it)"
            )
    elif kind != defaults.kind:
        note.changed(f"is a {defaults.kind}")
    return defaults.kind


def _containers(spec: Mapping[str, Any], component: Component, note: _Notes) -> None:
    init, main = as_list(spec.get("initContainers")), as_list(spec.get("containers"))
    images = sorted({str(one.get("image")) for one in (*init, *main)})
    note.changed(f"images {', '.join(images)} are replaced")
    if not init:
        note.changed("the network is set up by an init container; the main container is not privileged")
    for one in (*init, *main):
        name = one.get("name")
        for key in ("serviceAccountName", "nodeSelector", "hostNetwork"):
            if key in one:
                note.wrong(f"{key} in the container {name} means nothing, it belongs to the pod")
    if any(as_mapping(one.get("securityContext")).get("privileged") for one in main) and init:
        note.wrong("the main container was privileged and needs no privilege at all")
    if component is not Component.REDIRECT and any(
        as_mapping(one.get("securityContext")).get("privileged") for one in init
    ):
        note.changed("the init container has NET_ADMIN and NET_RAW instead of privileged")
    if not any("livenessProbe" in one or "readinessProbe" in one for one in main):
        note.wrong("without a probe, the Service sent clients to the pod before it worked")


def _variables(pod: ManifestPod, component: Component, note: _Notes) -> None:
    mode = pod.env.get("EGRESS_ROUTER_MODE", "").strip().lower() or "legacy"
    if mode != component.mode:
        say = note.changed if mode == "legacy" and component is Component.REDIRECT else note.wrong
        say(f"EGRESS_ROUTER_MODE is {component.mode}, it was {mode}")
    note.changed("the list of destinations is in a ConfigMap")
    carried = {*_CARRIED, component.destination_variable, f"{component.destination_variable}_FILE"}
    for name in sorted(pod.env.keys() - carried):
        note.changed(f"{name} is left out; add it again if it is still wanted")


def _rest_of_pod(item: Mapping[str, Any], spec: Mapping[str, Any], defaults: ManifestRequest, note: _Notes) -> None:
    source = item if item.get("kind") == "Pod" else as_mapping(as_mapping(item.get("spec")).get("template"))
    annotations = as_mapping(as_mapping(source.get("metadata")).get("annotations"))
    if spec.get("hostNetwork"):
        note.wrong("hostNetwork put the rules into the node's own network; ours is the pod's")
    value = annotations.get(ANNOTATION)
    if (
        defaults.platform is Platform.OPENSHIFT
        and value != "true"
        and not (defaults.network or defaults.parent_interface)
    ):
        found = "is missing" if value is None else f"is {value!r}"
        note.wrong(f'the annotation {ANNOTATION} {found}; without "true" the pod gets no macvlan')
    for key in sorted(spec.keys() - _KEPT_FIELDS - _HARMLESS - {"hostNetwork"}):
        note.changed(f"{key}, a field of the pod, is left out; add it again if it is still wanted")
