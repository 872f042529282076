"""Pods of origin-egress-router, -http-proxy and -dns-proxy, and pods of ours → LegacyRouter."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from egress_router.config.inputs import Problems, SourceText
from egress_router.manifests.containers import Container, ManifestPod, Role
from egress_router.manifests.objects import ManifestObject, Objects, as_list, as_mapping, as_text, texts
from egress_router.manifests.plan import EGRESS_INTERFACE, FORWARDING_SYSCTLS, NETWORKS_ANNOTATION, SDN_ANNOTATION
from egress_router.manifests.upstream.kept import Notebook, kept_of
from egress_router.manifests.values import (
    Component,
    Forwarding,
    Kind,
    LegacyRouter,
    ManifestRequest,
    NoteKind,
    Platform,
)
from egress_router.redirect.pair.values import ElectionNetwork

_INSTANCE = "app.kubernetes.io/instance"
_ROUTER = "egress-router/router"


def is_ours(item: ManifestObject) -> bool:
    """Return whether a workload is one that ``manifests`` wrote."""
    return item.pod_labels.get("app.kubernetes.io/name") == "egress-router" and _ROUTER in item.pod_labels


def router_of_pod(
    pod: ManifestPod, objects: Objects, defaults: ManifestRequest, given: set[str], problems: Problems, note: Notebook
) -> LegacyRouter | None:
    """Return the router of a pod, None when it cannot be told. ``given`` has the options of the command line, which
    win over what the manifest says.
    """
    item = pod.item
    ours = is_ours(item)
    component = _component(pod)
    setter = pod.with_role(Role.INIT) or pod.with_role(Role.RUN)
    reader = pod.with_role(_READS.get(component, Role.INIT))
    variable = component.destination_variable
    candidates = [one for one in (reader, setter, *pod.containers) if one is not None]
    lister = next((one for one in candidates if {variable, f"{variable}_FILE"} & one.names), None)
    text = _list(lister, variable, pod, problems)
    source = _value(pod, setter, "EGRESS_SOURCE", "source", given, problems)
    gateway = _value(pod, setter, "EGRESS_GATEWAY", "gateway", given, problems)
    if text is None or source is None or gateway is None:
        return None
    request = replace(
        defaults,
        component=component,
        name=item.pod_labels.get(_INSTANCE, "") if ours else _name(item),
        namespace=item.namespace or defaults.namespace,
        kind=Kind(item.kind) if ours and item.kind in list(Kind) and "kind" not in given else defaults.kind,
        node_selector=defaults.node_selector or _node_selector(item),
        kept=(kept_of(pod, component, objects, note, ours=ours),),
    )
    request = _attached(request, pod, given, note)
    if ours:
        request = _as_written(request, pod, objects, given)
    else:
        _notes(pod, component, request, note)
    names = {"--source": "EGRESS_SOURCE", "--gateway": "EGRESS_GATEWAY", "--http-port": "EGRESS_HTTP_PROXY_PORT"}
    ports = [one.env["EGRESS_HTTP_PROXY_PORT"] for one in pod.containers if "EGRESS_HTTP_PROXY_PORT" in one.env]
    return LegacyRouter(
        item.where,
        request,
        source,
        gateway,
        text.text,
        item.pod_labels,
        {option: f"{item.where} {name}" for option, name in names.items()}
        | {
            "--destinations": f"{item.where} {text.variable}",
            "--name": f"{item.where} metadata.name",
            "--namespace": f"{item.where} metadata.namespace",
            "--node-selector": f"{item.where} nodeSelector",
        },
        ports[0] if ports and component is Component.HTTP_PROXY else None,
        tuple(one.raw for one in pod.containers),
        "" if setter is None else setter.env.get("EGRESS_PAIR", "").strip(),
        frozenset(read for one in pod.containers for read in one.reads),
        setter is not None and setter.env.get("EGRESS_PAIR_NETWORK", "").strip().lower() == ElectionNetwork.CLUSTER,
    )


#: Which container reads the list.
_READS = {Component.HTTP_PROXY: Role.HTTP, Component.DNS_PROXY: Role.DNS, Component.TLS_PROXY: Role.DNS}


def _component(pod: ManifestPod) -> Component:
    names = {name for container in pod.containers for name in container.names}
    lists = [Component.DNS_PROXY.destination_variable, Component.TLS_PROXY.destination_variable]
    if [any(one in name for name in names) for one in lists] == [False, True]:
        return Component.TLS_PROXY
    for component, role in ((Component.HTTP_PROXY, Role.HTTP), (Component.DNS_PROXY, Role.DNS)):
        if pod.with_role(role) is not None or any(component.destination_variable in name for name in names):
            return component
    return Component.REDIRECT


def _name(item: ManifestObject) -> str:
    """Return the name of what made the pod, where the files have the pod alone."""
    made = texts(item.pod_annotations).get("openshift.io/deployment-config.name")
    if made and item.kind in ("Pod", "ReplicationController"):
        return made
    for reference in as_list(item.metadata.get("ownerReferences")):
        owner, template = as_text(reference.get("name")), item.pod_labels.get("pod-template-hash")
        return owner.removesuffix(f"-{template}") if template else owner
    # generateName ends with a hyphen.
    return item.name.rstrip("-")


def _list(lister: Container | None, variable: str, pod: ManifestPod, problems: Problems) -> SourceText | None:
    if lister is not None:
        for name in (variable, f"{variable}_FILE"):
            if name in lister.outside:
                message = f"comes from {lister.outside[name]}"
                problems.error(f"{pod.name} {name}", None, "", message, "the ConfigMap in the same files")
                return None
        found = Problems()
        text = lister.inputs().list_text(variable, found)
        problems.errors += [replace(one, variable=f"{pod.name} {one.variable}") for one in found.errors]
        if text is not None or found.errors:
            return text
    problems.error(f"{pod.name} {variable}", None, "", "is not set", "the list of destinations")
    return None


def _value(
    pod: ManifestPod, setter: Container | None, name: str, option: str, given: set[str], problems: Problems
) -> str | None:
    if option in given:
        return ""
    for container in [one for one in (setter, *pod.containers) if one is not None]:
        if name in container.outside:
            message = f"comes from {container.outside[name]}"
            problems.error(f"{pod.name} {name}", None, "", message, f"the same files, or --{option}")
            return None
        if name in container.env:
            return container.env[name]
    return ""


def _node_selector(item: ManifestObject) -> tuple[tuple[str, str], ...]:
    return tuple((key, as_text(value)) for key, value in as_mapping(item.pod_spec.get("nodeSelector")).items())


def _attached(request: ManifestRequest, pod: ManifestPod, given: set[str], note: Notebook) -> ManifestRequest:
    """Take over where the egress interface comes from, unless the command line says it."""
    annotations = pod.item.pod_annotations
    macvlan, networks = annotations.get(SDN_ANNOTATION), annotations.get(NETWORKS_ANNOTATION)
    interface = next((one.env["EGRESS_INTERFACE"] for one in pod.containers if "EGRESS_INTERFACE" in one.env), None)
    if {"parent-interface", "network", "sdn"} & given:
        if macvlan is not None or networks is not None:
            note.changed("the egress interface comes from elsewhere, as the command line asks for")
        return request
    own = is_ours(pod.item)
    if isinstance(networks, str) and networks.strip():
        networks = _without_default_route(networks, note)
        if macvlan is not None and macvlan != "false" and interface in (None, EGRESS_INTERFACE):
            # The SDN's macvlan is what init takes, the networks are for something else.
            (kept,) = request.kept
            kept = replace(kept, pod_annotations={**kept.pod_annotations, NETWORKS_ANNOTATION: networks})
            request = replace(request, kept=(kept,))
        else:
            if not own:
                note.same(f"{NETWORKS_ANNOTATION}: {networks.strip()}")
                if macvlan is not None:
                    note.changed(f"{SDN_ANNOTATION} is left out: {interface or 'the network'} is the egress interface")
            return replace(request, networks=networks, interface=interface, sdn=None)
    if request.platform is Platform.KUBERNETES:
        return request
    if macvlan in (None, "false"):
        return _without_annotation(request, pod, given, note)
    value = as_text(macvlan).strip("\"'“”„‘’ ")
    nic = (
        value
        if re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", value) and value.lower() not in ("true", "false", "yes")
        else "true"
    )
    if not own:
        note.same(f'{SDN_ANNOTATION}: "{nic}" (OpenShift SDN ends with 4.16; --parent-interface is for OVN-Kubernetes)')
        if isinstance(networks, str):
            note.same(f"{NETWORKS_ANNOTATION}: {networks.strip()}")
    return replace(request, sdn=nic)


def _without_default_route(networks: str, note: Notebook) -> str:
    """Return an annotation of Multus without what keeps `init` from telling the cluster's interface."""
    try:
        items = json.loads(networks)
    except (ValueError, RecursionError):
        return networks
    if not any("default-route" in one for one in as_list(items)):
        return networks
    note.changed(f"{NETWORKS_ANNOTATION} has no default-route any more: init moves the default route itself")
    return json.dumps([{key: one[key] for key in one if key != "default-route"} for one in as_list(items)])


def _without_annotation(request: ManifestRequest, pod: ManifestPod, given: set[str], note: Notebook) -> ManifestRequest:
    """Take over the NIC on which the old router made its macvlan itself. Where nothing is said, OpenShift SDN is what
    these manifests were for, unless the command line names a platform: then there is a decision to make.
    """
    found = (one.env["EGRESS_PARENT_INTERFACE"] for one in pod.containers if "EGRESS_PARENT_INTERFACE" in one.env)
    if parent := next(found, "").strip():
        note.changed(f"the macvlan on {parent} comes by a network attachment of Multus; the router made it itself")
        return replace(request, parent_interface=parent)
    if "platform" in given or is_ours(pod.item):
        return request
    note.changed(
        f'{SDN_ANNOTATION}: "true" is written, for OpenShift SDN up to 4.16, since nothing gives the pod an egress '
        "interface; elsewhere: --parent-interface NIC or --network NAME"
    )
    return replace(request, sdn="true")


def _as_written(request: ManifestRequest, pod: ManifestPod, objects: Objects, given: set[str]) -> ManifestRequest:
    """Take over the options with which ``manifests`` wrote a pod of ours."""
    item, name, namespace = pod.item, request.name, pod.item.namespace
    image = next((as_text(one.raw.get("image")) for one in pod.ours), "")
    registry, slash, rest = image.rpartition("/")
    if slash and "registry" not in given:
        request = replace(request, registry=registry)
    if ":" in rest and "tag" not in given:
        request = replace(request, tag=rest.rpartition(":")[2])
    attachment = objects.find("NetworkAttachmentDefinition", namespace, name)
    config = _json(attachment.spec.get("config")) if attachment is not None else {}
    plugins = as_list(config.get("plugins"))
    if request.networks is not None:
        (network,) = as_list(_json_list(request.networks)) or [{}]
        wanted = as_text(network.get("name"))
        space = as_text(network.get("namespace"))
        if attachment is not None and wanted == name and plugins:
            request = replace(request, networks=None, parent_interface=as_text(plugins[0].get("master")))
        elif wanted and as_text(network.get("interface")) == "macvlan0":
            request = replace(request, networks=None, network=f"{space}/{wanted}" if space else wanted)
    sysctls = {
        as_text(one.get("name")) for one in as_list(as_mapping(item.pod_spec.get("securityContext")).get("sysctls"))
    }
    privileged = any(as_mapping(one.raw.get("securityContext")).get("privileged") is True for one in pod.ours)
    if "forwarding" not in given and request.component is Component.REDIRECT:
        if sysctls & set(FORWARDING_SYSCTLS.values()):
            request = replace(request, forwarding=Forwarding.POD)
        elif any(set(FORWARDING_SYSCTLS.values()) & as_mapping(one.get("sysctl")).keys() for one in plugins):
            request = replace(request, forwarding=Forwarding.NETWORK)
        elif privileged and request.sdn is None:
            request = replace(request, forwarding=Forwarding.INIT)
    policy = objects.find("NetworkPolicy", namespace, name)
    if policy is not None and not request.allow_from:
        request = replace(request, allow_from=_allowed(policy))
    account = f"system:serviceaccount:{namespace}:{as_text(item.pod_spec.get('serviceAccountName'))}"
    scc = any(account in (one.raw.get("users") or ()) for one in objects.of_kind("SecurityContextConstraints"))
    return replace(
        request,
        platform=Platform.OPENSHIFT if scc else Platform.KUBERNETES,
        service_monitor=objects.find("ServiceMonitor", namespace, name) is not None,
        create_namespace=objects.find("Namespace", "", namespace) is not None,
    )


def _json(value: Any) -> dict[str, Any]:
    try:
        return as_mapping(json.loads(as_text(value)))
    except (ValueError, RecursionError):
        return {}


def _json_list(value: str) -> list[Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return found[:1] if isinstance(found, list) and len(found) == 1 else []


def _allowed(policy: ManifestObject) -> tuple[str, ...]:
    for rule in as_list(policy.spec.get("ingress")):
        for peer in as_list(rule.get("from")):
            for expression in as_list(as_mapping(peer.get("namespaceSelector")).get("matchExpressions")):
                values = expression.get("values")
                if isinstance(values, list):
                    return tuple(as_text(one) for one in values)
    return ()


def _notes(pod: ManifestPod, component: Component, request: ManifestRequest, note: Notebook) -> None:
    """Note what every router of another project gets anew."""
    item = pod.item
    lines = "EGRESS_SOURCE, EGRESS_GATEWAY, the destinations, the namespace"
    note.same(f"{lines}{', the node selector' if request.node_selector else ''}")
    images = sorted({as_text(one.raw.get("image")) or "?" for one in pod.ours})
    note.changed(f"images {', '.join(images)} are replaced by ours")
    if item.kind != request.kind:
        why = ": a changed manifest makes a new pod, which a ReplicationController does not do"
        why = why if item.kind == "ReplicationController" else ""
        keeps = " (--kind ReplicationController keeps it)" if item.kind == "ReplicationController" else ""
        note.changed(f"is a {request.kind}{why}{keeps}")
    if item.kind == "Pod" and not item.metadata.get("ownerReferences"):
        note.add(NoteKind.WRONG, "a bare Pod is not started again when its node is gone")
    setter = pod.with_role(Role.INIT)
    if setter is None:
        note.changed("the network is set up by an init container; the main container is not privileged")
    elif setter.mode not in (component.mode, "legacy"):
        note.changed(f"EGRESS_ROUTER_MODE is {component.mode}, it was {setter.mode}")
    if not any("livenessProbe" in one.raw or "readinessProbe" in one.raw for one in pod.containers if not one.init):
        note.add(NoteKind.WRONG, "without a probe, the Service sent clients to the pod before it worked")
    note.changed("the list of destinations is in a ConfigMap of its own, which the router reads again when it changes")
