"""What becomes of the objects of the old manifest that are neither routers nor their Services."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from egress_router.manifests.containers import over
from egress_router.manifests.objects import ManifestObject, Objects, as_mapping, as_text
from egress_router.manifests.upstream.resource import OPERATOR_LABELS
from egress_router.manifests.values import LegacyRouter, ManifestRequest, Note, NoteKind

#: What our own set has in its place.
_REPLACED = ("SecurityContextConstraints", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget")
_REFERENCES = ("configMap", "secret", "configMapRef", "secretRef", "configMapKeyRef", "secretKeyRef")
_OURS = "app.kubernetes.io/managed-by"


class Fates:
    """Collects what was made of which object, and says so of the rest. ``pods`` are the routers (ids of objects),
    ``namespace`` where objects without one go.
    """

    def __init__(self, objects: Objects, pods: set[int], namespace: str) -> None:
        self._objects = objects
        self._pods = pods
        self._namespace = namespace
        self._services: set[int] = set()
        self._requests: dict[tuple[str, str], ManifestRequest] = {}
        #: Keys of ConfigMaps and Secrets that routers read, and the routers that do.
        self._reads: dict[int, set[str]] = {}
        self._readers: dict[int, list[ManifestRequest]] = {}

    def services(self, items: Iterable[ManifestObject | None]) -> None:
        """Note the Services that are spoken of elsewhere."""
        self._services.update(id(item) for item in items if item is not None)

    def written(self, request: ManifestRequest, routers: Sequence[LegacyRouter]) -> None:
        """Note what the routers became."""
        self._requests[request.namespace, request.name] = request
        for router in routers:
            for number, key in router.reads:
                self._reads.setdefault(number, set()).add(key)
                readers = self._readers.setdefault(number, [])
                if not any(one is request for one in readers[-1:]):
                    readers.append(request)

    def notes(self) -> Iterator[Note]:
        """Yield a note about each object that nothing was said of."""
        spoken_of = self._pods | self._services
        for item in self._objects:
            if id(item) in spoken_of or item.kind == "EgressRouter":
                continue
            if self._objects.owner(item) is not None or over(item):
                continue
            if _is_the_operators(item):
                yield Note(NoteKind.CHANGED, item.where, "was made for an EgressRouter, and goes with that")
                continue
            labels = as_mapping(item.metadata.get("labels"))
            if labels.get("app.kubernetes.io/name") == "egress-router" or labels.get(_OURS) == "egress-router":
                continue
            kind, text = self._fate(item)
            yield Note(kind, item.where, text)

    def _fate(self, item: ManifestObject) -> tuple[NoteKind, str]:
        place = (item.namespace or self._namespace, item.name)
        if item.kind == "ConfigMap" and place in self._requests:
            rest = ", ".join(sorted(set(as_mapping(item.raw.get("data"))) - self._reads.get(id(item), set())))
            if rest:
                return NoteKind.LOST, f"its keys {rest}: our ConfigMap has the same name, and the list alone"
            return NoteKind.CHANGED, "ours has its name, and the list under the key destinations"
        if id(item) in self._readers:
            return self._read(item)
        if item.kind in _REPLACED:
            return NoteKind.CHANGED, "is no longer needed: ours has its own"
        if item.kind == "HorizontalPodAutoscaler" and self._scales_a_router(item):
            return NoteKind.CHANGED, "must go before: it would make several pods with one EGRESS_SOURCE"
        if item.kind in ("Endpoints", "EndpointSlice") and place in self._requests:
            return NoteKind.CHANGED, "was made by hand; Kubernetes writes it for the Service, which selects now"
        if item.kind == "Service":
            return NoteKind.SAME, "selects none of these routers; it is not written and stays as it is"
        return NoteKind.SAME, "is no part of a router; it is not written and stays as it is"

    def _read(self, item: ManifestObject) -> tuple[NoteKind, str]:
        """Return what becomes of a ConfigMap or Secret that a router read."""
        readers = self._readers[id(item)]
        if any(item.name in set(_named(dataclasses.asdict(kept))) for one in readers for kept in one.kept):
            return NoteKind.SAME, "is read by the new router as well; it is not written and stays as it is"
        lists = ", ".join(dict.fromkeys(one.name for one in readers))
        text = f"is no longer read: what it said is in the manifest now, the list in the ConfigMap {lists}"
        return NoteKind.CHANGED, text

    def _scales_a_router(self, item: ManifestObject) -> bool:
        target = as_mapping(item.spec.get("scaleTargetRef"))
        found = self._objects.find(as_text(target.get("kind")), item.namespace, as_text(target.get("name")))
        return found is not None and id(found) in self._pods


def _is_the_operators(item: ManifestObject) -> bool:
    """Return whether the network operator made the object."""
    if item.kind == "NetworkAttachmentDefinition":
        return '"egress-router"' in as_text(item.spec.get("config"))
    return OPERATOR_LABELS.items() <= item.pod_labels.items()


def _named(value: Any) -> Iterator[str]:
    """Yield the names of ConfigMaps and Secrets that kept parts refer to."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _named(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _REFERENCES and isinstance(item, dict):
                yield as_text(item.get("name")) or as_text(item.get("secretName"))
            yield from _named(item)
