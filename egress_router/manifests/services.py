"""Services by the labels of the pods that they select."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from egress_router.manifests.objects import ManifestObject, Objects, as_mapping


class Services:
    """The Services of all files, found by the labels of pods."""

    def __init__(self, objects: Objects) -> None:
        # Each under one entry of its selector: a pod that it selects has that label.
        self._by_label: dict[tuple[str, Any], list[tuple[int, ManifestObject]]] = {}
        self._by_name: dict[str, list[ManifestObject]] = {}
        for number, item in enumerate(objects.of_kind("Service")):
            self._by_name.setdefault(item.name, []).append(item)
            if item.spec.get("type") == "ExternalName":
                # Its selector means nothing.
                continue
            for label in _hashable(as_mapping(item.spec.get("selector"))):
                self._by_label.setdefault(label, []).append((number, item))
                break

    def selecting(self, labels: Mapping[str, str], namespace: str) -> list[ManifestObject]:
        """Return the Services of the namespace that select pods with these labels, in the order of the files."""
        found = []
        for label in labels.items():
            for number, item in self._by_label.get(label, ()):
                if in_namespace(item, namespace) and as_mapping(item.spec.get("selector")).items() <= labels.items():
                    found.append((number, item))
        return [item for _, item in sorted(found, key=lambda one: one[0])]

    def named(self, name: str, namespace: str) -> ManifestObject | None:
        """Return the Service of that name."""
        return next((item for item in self._by_name.get(name, ()) if in_namespace(item, namespace)), None)


def in_namespace(item: ManifestObject, namespace: str) -> bool:
    """Return whether an object may be in a namespace: "" is the one that kubectl chooses."""
    return item.namespace == namespace or not (item.namespace and namespace)


def _hashable(selector: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in selector.items() if not isinstance(value, (dict, list)))
