"""The Services of other egress routers: kept as clients know them, on our pods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from egress_router.config.inputs import Problems
from egress_router.manifests.objects import ManifestObject, Objects, as_list, as_mapping, as_text, texts
from egress_router.manifests.upstream.kept import OUR_LABELS, Notebook
from egress_router.manifests.values import KeptService

_GENERATED = ("kubectl.kubernetes.io/last-applied-configuration",)
#: What the API server fills in, and what is given to a Service once.
_DEFAULTS: dict[str, Any] = {
    "type": "ClusterIP",
    "sessionAffinity": "None",
    "internalTrafficPolicy": "Cluster",
    "ipFamilyPolicy": "SingleStack",
}
_ONCE = {"selector", "clusterIPs", "healthCheckNodePort"}


class Services:
    """The Services of all files, found by the labels of pods."""

    def __init__(self, objects: Objects) -> None:
        # Each under one entry of its selector: a pod that it selects has that label.
        self._by_label: dict[tuple[str, Any], list[tuple[int, ManifestObject]]] = {}
        for number, item in enumerate(objects.of_kind("Service")):
            for label in _hashable(as_mapping(item.spec.get("selector"))):
                self._by_label.setdefault(label, []).append((number, item))
                break

    def selecting(self, labels: Mapping[str, str], namespace: str) -> list[ManifestObject]:
        """Return the Services of the namespace that select pods with these labels, in the order of the files."""
        found = []
        for label in labels.items():
            for number, item in self._by_label.get(label, ()):
                here = item.namespace == namespace or not (item.namespace and namespace)
                if here and as_mapping(item.spec.get("selector")).items() <= labels.items():
                    found.append((number, item))
        return [item for _, item in sorted(found, key=lambda one: one[0])]


def _hashable(selector: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in selector.items() if not isinstance(value, (dict, list)))


def kept_service(
    item: ManifestObject, containers: Iterable[Mapping[str, Any]], problems: Problems, note: Notebook
) -> KeptService:
    """Return a Service without what is given to it once, its named target ports as numbers."""
    spec = {
        key: value
        for key, value in item.spec.items()
        if key not in _ONCE and value not in (None, [], {}) and _DEFAULTS.get(key, object()) != value
    }
    if spec.get("clusterIP") != "None":
        spec.pop("clusterIP", None)
    if "ipFamilyPolicy" not in spec:
        spec.pop("ipFamilies", None)
    names = {
        as_text(port.get("name")): port.get("containerPort")
        for container in containers
        for port in as_list(container.get("ports"))
    }
    ports = []
    for port in as_list(item.spec.get("ports")):
        entry = {
            key: value
            for key, value in port.items()
            if key != "nodePort" or spec.get("type", "ClusterIP") != "ClusterIP"
        }
        target = port.get("targetPort", port.get("port"))
        if isinstance(target, str) and not target.isdigit():
            if not isinstance(names.get(target), int):
                message = f"leads to the port {target}, which no container has"
                problems.error(f"{item.where} spec.ports", None, as_text(port.get("port")), message, "a number")
                continue
            note.changed(f"targetPort {target} is {names[target]}: our containers name their ports otherwise")
            target = names[target]
        entry["targetPort"] = int(target) if isinstance(target, str) else target
        ports.append(entry)
    if ports:
        spec["ports"] = ports
    return KeptService(
        item.name,
        spec,
        {key: value for key, value in texts(item.metadata.get("labels")).items() if not key.startswith(OUR_LABELS)},
        {key: value for key, value in texts(item.metadata.get("annotations")).items() if key not in _GENERATED},
    )
