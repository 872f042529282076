"""Services and NetworkPolicies by the labels of the pods that they select."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from egress_router.manifests.objects import ManifestObject, Objects, as_mapping


class Services:
    """The Services of all files, or objects of another kind that select pods, found by the labels of pods."""

    def __init__(self, objects: Objects, kind: str = "Service") -> None:
        # Each under one entry of its selector: a pod that it selects has that label.
        self._by_label: dict[tuple[str, Any], list[tuple[int, ManifestObject]]] = {}
        self._by_name: dict[str, list[ManifestObject]] = {}
        for number, item in enumerate(objects.of_kind(kind)):
            self._by_name.setdefault(item.name, []).append(item)
            if item.spec.get("type") == "ExternalName":
                # Its selector means nothing.
                continue
            for label in _hashable(_selector(item)):
                self._by_label.setdefault(label, []).append((number, item))
                break

    def selecting(self, labels: Mapping[str, str], namespace: str) -> list[ManifestObject]:
        """Return those of the namespace that select pods with these labels, in the order of the files."""
        found = []
        for label in labels.items():
            for number, item in self._by_label.get(label, ()):
                if in_namespace(item, namespace) and _selector(item).items() <= labels.items():
                    found.append((number, item))
        return [item for _, item in sorted(found, key=lambda one: one[0])]

    def named(self, name: str, namespace: str) -> ManifestObject | None:
        """Return the one of that name."""
        return next((item for item in self._by_name.get(name, ()) if in_namespace(item, namespace)), None)


def in_namespace(item: ManifestObject, namespace: str) -> bool:
    """Return whether an object may be in a namespace: "" is the one that kubectl chooses."""
    return item.namespace == namespace or not (item.namespace and namespace)


def _selector(item: ManifestObject) -> Mapping[str, Any]:
    if item.kind == "NetworkPolicy":
        return as_mapping(as_mapping(item.spec.get("podSelector")).get("matchLabels"))
    return as_mapping(item.spec.get("selector"))


def _hashable(selector: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in selector.items() if not isinstance(value, (dict, list)))
