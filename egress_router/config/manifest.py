"""The EGRESS_* variables of a Kubernetes manifest: of all containers of each pod in it, ConfigMaps resolved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.errors import ConfigurationError, Problem


@dataclass(slots=True)
class ManifestPod:
    """A pod template of a manifest: its name and what its containers' variables say, taken together."""

    name: str
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, SourceText | Problem] = field(default_factory=dict)

    @property
    def inputs(self) -> Inputs:
        """The variables as the parsers take them."""
        return Inputs(self.env, self.files)


def manifest_pods(text: str, label: str, problems: Problems) -> list[ManifestPod]:
    """Return the pods of a YAML text that have EGRESS_* variables.

    A variable that comes from a ConfigMap of the same text is resolved, also one that names a file of a mounted
    ConfigMap. What comes from elsewhere cannot be checked and is noted as a warning. Raises ConfigurationError when
    the text is no YAML or has no such pod.
    """
    try:
        documents = [item for item in yaml.safe_load_all(text) if isinstance(item, dict)]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else None
        reason = getattr(error, "problem", None) or "cannot be read"
        hint = "straight quotes and hyphens; web pages turn them into typographic ones"
        raise ConfigurationError([Problem(label, line, "", f"is not YAML: {reason}", hint)]) from error
    objects = [item for document in documents for item in _flat(document)]
    config_maps = {_name(item): _mapping(item.get("data")) for item in objects if item.get("kind") == "ConfigMap"}
    pods = []
    for item in objects:
        spec = _pod_spec(item)
        if spec is not None:
            pod = _Reader(label, config_maps, problems).pod(f"{item.get('kind')}/{_name(item)}", spec)
            if pod.env:
                pods.append(pod)
    if not pods:
        raise ConfigurationError([Problem(label, None, "", "has no pod with EGRESS_* variables")])
    return pods


def _flat(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        for item in document["items"]:
            if isinstance(item, dict):
                yield from _flat(item)
    else:
        yield document


def _name(item: dict[str, Any]) -> str:
    return str(_mapping(item.get("metadata")).get("name", "?"))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _pod_spec(item: dict[str, Any]) -> dict[str, Any] | None:
    """Return the pod spec of a Pod or of anything with a pod template."""
    spec = _mapping(item.get("spec"))
    if item.get("kind") == "CronJob":
        spec = _mapping(_mapping(spec.get("jobTemplate")).get("spec"))
    template = _mapping(_mapping(spec.get("template")).get("spec"))
    return spec if item.get("kind") == "Pod" else template or None


class _Reader:
    """Reads the containers of one pod."""

    def __init__(self, label: str, config_maps: dict[str, dict[str, Any]], problems: Problems) -> None:
        self._label = label
        self._config_maps = config_maps
        self._problems = problems

    def pod(self, name: str, spec: dict[str, Any]) -> ManifestPod:
        """Return what the containers of ``spec`` say together."""
        pod = ManifestPod(name)
        volumes = {str(item.get("name")): item for item in _list(spec.get("volumes"))}
        for container in (*_list(spec.get("initContainers")), *_list(spec.get("containers"))):
            for variable in _list(container.get("env")):
                key = str(variable.get("name", ""))
                value = self._value(variable, key) if key.startswith("EGRESS_") else None
                if value is None:
                    continue
                if pod.env.get(key, value) != value:
                    self._problems.warn(key, None, value, f"has another value in another container of {name}")
                pod.env[key] = value
                if key.endswith("_FILE") and value.strip():
                    pod.files[key] = self._file(key, value.strip(), container, volumes)
        return pod

    def _value(self, variable: dict[str, Any], key: str) -> str | None:
        if "valueFrom" not in variable:
            value = variable.get("value")
            return "" if value is None else str(value)
        reference = _mapping(_mapping(variable["valueFrom"]).get("configMapKeyRef"))
        data = self._config_maps.get(str(reference.get("name")), {})
        if reference.get("key") in data:
            return str(data[reference["key"]])
        self._problems.warn(key, None, "", f"comes from outside of {self._label} and was not checked")
        return None

    def _file(
        self, key: str, path: str, container: dict[str, Any], volumes: dict[str, dict[str, Any]]
    ) -> SourceText | Problem:
        for mount in _list(container.get("volumeMounts")):
            inside, at = "", str(mount.get("mountPath", "")).rstrip("/")
            if path.startswith(at + "/"):
                inside = path[len(at) + 1 :]
            elif path == at and mount.get("subPath"):
                inside = str(mount["subPath"])
            if not inside:
                continue
            source = _mapping(_mapping(volumes.get(str(mount.get("name")))).get("configMap"))
            renamed = {str(item.get("path")): str(item.get("key")) for item in _list(source.get("items"))}
            data = self._config_maps.get(str(source.get("name")), {})
            if renamed.get(inside, inside) in data:
                return SourceText(key, str(data[renamed.get(inside, inside)]))
        return Problem(key, None, path, f"is in no ConfigMap of {self._label}", "a key of a ConfigMap that it mounts")
