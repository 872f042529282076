"""Files of manifests → Kubernetes objects with their identity: kind, namespace and name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from egress_router.config.inputs import Problems, SourceText
from egress_router.config.kubernetes_yaml import YamlError, parse_documents
from egress_router.manifests.forms import no_object, not_yaml

#: Kinds whose pods another object of the same text may own.
_OWNED = ("Pod", "ReplicaSet", "ReplicationController", "Job")


def as_mapping(value: Any) -> dict[str, Any]:
    """Return a value that is a mapping, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[dict[str, Any]]:
    """Return the mappings of a list, none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """Return a text or a number as text, "" for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


@dataclass(slots=True)
class ManifestObject:
    """One object and the file that it stands in. ``where`` names it in messages: KIND/NAME, or KIND/NAMESPACE/NAME
    where the files have that kind and name in several namespaces.
    """

    raw: dict[str, Any]
    file: str
    where: str = ""

    @property
    def kind(self) -> str:
        """The kind, "" without one."""
        return as_text(self.raw.get("kind"))

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, empty without any."""
        return as_mapping(self.raw.get("metadata"))

    @property
    def name(self) -> str:
        """The name, "?" without one."""
        return as_text(self.metadata.get("name")) or as_text(self.metadata.get("generateName")) or "?"

    @property
    def namespace(self) -> str:
        """The namespace, "" where the object leaves it to kubectl."""
        return as_text(self.metadata.get("namespace"))

    @property
    def spec(self) -> dict[str, Any]:
        """The spec, empty without one."""
        return as_mapping(self.raw.get("spec"))

    @property
    def template(self) -> dict[str, Any]:
        """The pod, or the template of pods: a mapping with metadata and spec; empty for other objects."""
        if self.kind == "Pod":
            return self.raw
        return as_mapping((self.job_spec or self.spec).get("template"))

    @property
    def job_spec(self) -> dict[str, Any]:
        """The spec of a Job, or of the Jobs that a CronJob makes; empty for other objects."""
        if self.kind == "CronJob":
            return as_mapping(as_mapping(self.spec.get("jobTemplate")).get("spec"))
        return self.spec if self.kind == "Job" else {}

    @property
    def pod_spec(self) -> dict[str, Any]:
        """The spec of the pod or of the template, empty for other objects."""
        return as_mapping(self.template.get("spec"))

    @property
    def pod_labels(self) -> dict[str, str]:
        """The labels of the pods."""
        return texts(as_mapping(self.template.get("metadata")).get("labels"))

    @property
    def pod_annotations(self) -> dict[str, Any]:
        """The annotations of the pods, as they are: a value that is no text is an error, and told elsewhere."""
        return as_mapping(as_mapping(self.template.get("metadata")).get("annotations"))


def texts(value: Any) -> dict[str, str]:
    """Return the entries of a mapping that are texts."""
    return {key: item for key, item in as_mapping(value).items() if isinstance(item, str)}


class Objects:
    """The objects of all files, in their order."""

    def __init__(self, objects: list[ManifestObject]) -> None:
        self._objects = objects
        spaces: dict[tuple[str, str], set[str]] = {}
        for item in objects:
            spaces.setdefault((item.kind, item.name), set()).add(item.namespace)
        for item in objects:
            several = len(spaces[item.kind, item.name]) > 1 and item.namespace
            item.where = f"{item.kind}/{item.namespace}/{item.name}" if several else f"{item.kind}/{item.name}"
        self._by_name: dict[tuple[str, str], list[ManifestObject]] = {}
        self._by_kind: dict[str, list[ManifestObject]] = {}
        for item in objects:
            self._by_name.setdefault((item.kind, item.name), []).append(item)
            self._by_kind.setdefault(item.kind, []).append(item)

    def __iter__(self) -> Iterator[ManifestObject]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def of_kind(self, kind: str) -> list[ManifestObject]:
        """Return the objects of a kind, in the order of the files."""
        return self._by_kind.get(kind, [])

    def kinds(self) -> list[str]:
        """Return the kinds, each once, in the order of the files."""
        return list(self._by_kind)

    def find(self, kind: str, namespace: str, name: str) -> ManifestObject | None:
        """Return the object that a pod of ``namespace`` means by ``name``: one of its namespace, or, where one of the
        two leaves the namespace to kubectl, the only one of that name.
        """
        found = self._by_name.get((kind, name), [])
        for item in found:
            if item.namespace == namespace:
                return item
        open_ = [item for item in found if not item.namespace] if namespace else found
        return open_[0] if len(open_) == 1 else None

    def owner(self, item: ManifestObject) -> ManifestObject | None:
        """Return the object of these files that made ``item`` (metadata.ownerReferences), None without one."""
        if item.kind not in _OWNED:
            return None
        for reference in as_list(item.metadata.get("ownerReferences")):
            found = self.find(as_text(reference.get("kind")), item.namespace, as_text(reference.get("name")))
            if found is not None and found is not item:
                return found
        return None

    def workloads(self) -> Iterator[ManifestObject]:
        """Yield the pods and templates of pods that no other object of these files has made."""
        for item in self._objects:
            if item.pod_spec and self.owner(item) is None:
                yield item


def read_objects(files: Iterable[SourceText], problems: Problems) -> Objects:
    """Return the objects of all files, lists unpacked. What is wrong with a file is noted.

    An object that stands twice with different contents is a problem: the last one would win.
    """
    found: list[ManifestObject] = []
    for file in files:
        found += _objects_of(file, problems)
    seen: dict[tuple[str, str, str], ManifestObject] = {}
    for item in found:
        identity = (item.kind, item.namespace, item.name)
        first = seen.setdefault(identity, item)
        if first is not item and first.raw != item.raw and item.name != "?":
            space = f" of the namespace {item.namespace}" if item.namespace else ""
            where = "twice" if first.file == item.file else f"in {first.file} too, with other contents"
            message = f"{item.kind} {item.name}{space} stands there {where}; the last one would win"
            problems.error(item.file, None, "", message, "one object of a name")
    return Objects([item for item in found if seen[item.kind, item.namespace, item.name] is item or item.name == "?"])


def _objects_of(file: SourceText, problems: Problems) -> list[ManifestObject]:
    label, text = file.variable, file.text
    try:
        documents = parse_documents(text)
    except YamlError as error:
        problems.errors.append(not_yaml(text, label, error))
        return []
    found = []
    array = False
    for document in documents:
        if isinstance(document.value, list):
            expected = '{"apiVersion": "v1", "kind": "List", "items": [...]}, which `kubectl get -o json` writes'
            problems.error(label, document.line, "", "is an array of objects, which kubectl does not take", expected)
            array = True
            continue
        found += [ManifestObject(raw, label) for raw in flat(document.value) if as_text(raw.get("kind"))]
    if not found and not array:
        problems.errors.append(no_object(text, label, [document.value for document in documents]))
    return found


def flat(value: Any, kind: str = "") -> Iterator[dict[str, Any]]:
    """Yield the objects of a document: itself, or the items of a list (List, PodList, EgressRouterList …), whose own
    kind may be left out there.
    """
    if not isinstance(value, dict):
        return
    own = as_text(value.get("kind")) or kind
    if own.endswith("List") and isinstance(value.get("items"), list):
        for item in value["items"]:
            yield from flat(item, own.removesuffix("List"))
    elif own:
        yield value if value.get("kind") else {**value, "kind": own}
