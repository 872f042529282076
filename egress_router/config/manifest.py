"""The EGRESS_* variables of a Kubernetes manifest: of all containers of each pod in it, ConfigMaps resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.config.kubernetes_yaml import YamlError, parse_documents
from egress_router.errors import ConfigurationError, Problem

#: What web pages and word processors make of ``"``, ``'`` and ``-``.
_TYPOGRAPHIC = "“”„‘’‚–—‑"


@dataclass(slots=True)
class ManifestPod:
    """A pod template of a manifest: its name and what its containers' variables say, taken together.

    ``outside`` says of each variable whose value is not in the manifest where it comes from.
    """

    name: str
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, SourceText | Problem] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> Inputs:
        """The variables as the parsers take them."""
        return Inputs(self.env, self.files)


def manifest_pods(text: str, label: str, problems: Problems) -> list[ManifestPod]:
    """Return the pods of a YAML text that have EGRESS_* variables.

    A variable that comes from a ConfigMap of the same text is resolved (``valueFrom``, ``envFrom``), also one that
    names a file of a mounted ConfigMap. What comes from elsewhere cannot be checked and is noted as a warning; a value
    that is no string, which Kubernetes refuses, as an error. Raises ConfigurationError when the text is no YAML or has
    no such pod.
    """
    objects = manifest_objects(text, label)
    config_maps = {name_of(item): as_mapping(item.get("data")) for item in objects if item.get("kind") == "ConfigMap"}
    pods = []
    for item in objects:
        spec = pod_spec_of(item)
        if spec is not None:
            pod = _Reader(label, config_maps, problems).pod(f"{item.get('kind')}/{name_of(item)}", spec)
            if pod.env or pod.outside:
                pods.append(pod)
    if not pods and not problems.errors:
        expected = "a Pod, or an object with a pod template, whose containers have them"
        raise ConfigurationError([Problem(label, None, "", "has no pod with EGRESS_* variables", expected)])
    return pods


def manifest_objects(text: str, label: str) -> list[dict[str, Any]]:
    """Return the objects of a YAML text, those in a ``List`` as well. Raises ConfigurationError when it is no YAML."""
    return [item for document in _documents(text, label) for item in _flat(document)]


def _documents(text: str, label: str) -> list[dict[str, Any]]:
    """Load the YAML documents. Raises ConfigurationError."""
    try:
        return [document.value for document in parse_documents(text) if isinstance(document.value, dict)]
    except YamlError as error:
        problem = Problem(label, error.line, "", error.message, _typographic_hint(text, label))
    raise ConfigurationError([problem])


def _typographic_hint(text: str, label: str) -> str:
    for number, raw in enumerate(text.split("\n"), start=1):
        found = next((character for character in raw if character in _TYPOGRAPHIC), None)
        if found is not None:
            return f'line {number} of {label} has a typographic "{found}": write straight quotes and plain hyphens'
    return ""


def _flat(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a document: itself, or the items of a ``List``, which does not nest."""
    if document.get("kind") == "List":
        yield from as_list(document.get("items"))
    else:
        yield document


def name_of(item: Mapping[str, Any]) -> str:
    """Return the name of an object, "?" without one."""
    return str(as_mapping(item.get("metadata")).get("name", "?"))


def as_mapping(value: Any) -> dict[str, Any]:
    """Return a value that is a mapping, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[dict[str, Any]]:
    """Return the mappings of a list, none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def pod_spec_of(item: dict[str, Any]) -> dict[str, Any] | None:
    """Return the pod spec of a Pod or of anything with a pod template."""
    spec = as_mapping(item.get("spec"))
    if item.get("kind") == "CronJob":
        spec = as_mapping(as_mapping(spec.get("jobTemplate")).get("spec"))
    template = as_mapping(as_mapping(spec.get("template")).get("spec"))
    return spec if item.get("kind") == "Pod" else template or None


_KINDS = {bool: "truth value, not a string", int: "number, not a string", float: "number, not a string"}


class _Reader:
    """Reads the containers of one pod."""

    def __init__(self, label: str, config_maps: dict[str, dict[str, Any]], problems: Problems) -> None:
        self._label = label
        self._config_maps = config_maps
        self._problems = problems

    def pod(self, name: str, spec: dict[str, Any]) -> ManifestPod:
        """Return what the containers of ``spec`` say together."""
        pod = ManifestPod(name)
        volumes = {str(item.get("name")): item for item in as_list(spec.get("volumes"))}
        for container in (*as_list(spec.get("initContainers")), *as_list(spec.get("containers"))):
            values = self._from_sources(container) | self._own(container, pod)
            for key, value in values.items():
                if pod.env.get(key, value) != value:
                    self._problems.warn(key, None, value, f"has another value in another container of {name}")
                pod.env[key] = value
                if key.endswith("_FILE") and value.strip():
                    pod.files[key] = self._file(key, value.strip(), container, volumes)
        for key, where in pod.outside.items():
            self._problems.warn(key, None, "", f"comes from {where} and was not checked")
        return pod

    def _from_sources(self, container: dict[str, Any]) -> dict[str, str]:
        """Return what ``envFrom`` takes from ConfigMaps; the last one wins."""
        values: dict[str, str] = {}
        for source in as_list(container.get("envFrom")):
            reference = source.get("configMapRef")
            if not isinstance(reference, dict):
                continue
            prefix = str(source.get("prefix") or "")
            name = str(reference.get("name"))
            if name not in self._config_maps:
                message = (
                    f"envFrom takes variables from the ConfigMap {name}, which is not in it; they were not checked"
                )
                self._problems.warn(self._label, None, "", message)
            for key, value in self._config_maps.get(name, {}).items():
                text = self._string(f"{prefix}{key}", value)
                if text is not None:
                    values[f"{prefix}{key}"] = text
        return values

    def _own(self, container: dict[str, Any], pod: ManifestPod) -> dict[str, str]:
        """Return what ``env`` says; what comes from outside is noted in ``pod``."""
        values: dict[str, str] = {}
        for variable in as_list(container.get("env")):
            key = str(variable.get("name", ""))
            if not key.startswith("EGRESS_"):
                continue
            value = variable.get("value")
            if key == "EGRESS_HOST_IPS" and "valueFrom" in variable:
                # The node's addresses, which are known when there is a node.
                continue
            if "valueFrom" in variable:
                reference = as_mapping(as_mapping(variable["valueFrom"]).get("configMapKeyRef"))
                data = self._config_maps.get(str(reference.get("name")), {})
                if str(reference.get("key")) not in data:
                    pod.outside[key] = f"outside of {self._label}"
                    continue
                value = data[str(reference.get("key"))]
            text = self._string(key, "" if value is None else value)
            if text is not None:
                values[key] = text
        return values

    def _string(self, key: str, value: Any) -> str | None:
        """Return the value of a variable of ours, None for other people's and for what is no string."""
        if not key.startswith("EGRESS_"):
            return None
        if isinstance(value, str):
            return value
        self._problems.error(key, None, str(value), f"is a {_KINDS.get(type(value), 'structure')}", "quotes around it")
        return None

    def _file(
        self, key: str, path: str, container: dict[str, Any], volumes: dict[str, dict[str, Any]]
    ) -> SourceText | Problem:
        for mount in as_list(container.get("volumeMounts")):
            inside, at = "", str(mount.get("mountPath", "")).rstrip("/")
            if path.startswith(at + "/"):
                inside = path[len(at) + 1 :]
            elif path == at and mount.get("subPath"):
                inside = str(mount["subPath"])
            if not inside:
                continue
            source = as_mapping(as_mapping(volumes.get(str(mount.get("name")))).get("configMap"))
            renamed = {str(item.get("path")): str(item.get("key")) for item in as_list(source.get("items"))}
            data = self._config_maps.get(str(source.get("name")), {})
            if renamed.get(inside, inside) in data:
                return SourceText(key, str(data[renamed.get(inside, inside)]))
        return Problem(key, None, path, f"is in no ConfigMap of {self._label}", "a key of a ConfigMap that it mounts")
