"""Containers of a manifest as the kubelet would start them: their variables, their files, and what each of them is."""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from egress_router.config.inputs import DNS_PROXY, HTTP_PROXY, NODE, ROUTER, Inputs, Problems, SourceText
from egress_router.errors import Problem
from egress_router.manifests.objects import ManifestObject, Objects, as_list, as_mapping, as_text

_KINDS = {bool: "truth value", int: "number", float: "number"}
_ELSEWHERE = "put it into the same files to have it read"
_VERBS = ("init", "run", "http-proxy", "dns-proxy")
#: Names of images: upstream's (origin-, ose-), ours, and what mirrors put in front and behind (-rhel9, -v4.6).
_IMAGE = r"(?:[a-z0-9._]+-)*egress-{}(?:-(?:rhel|ubi|el|v)?[0-9][a-z0-9._]*)?"
_IMAGES = (
    (re.compile(_IMAGE.format(r"(?:http-proxy|router-proxy)")), "http-proxy"),
    (re.compile(_IMAGE.format(r"(?:dns-proxy|router-dns)")), "dns-proxy"),
    (re.compile(_IMAGE.format(r"router(?:-init)?")), "init"),
)
#: ``$$``, ``$(NAME)`` or a lone ``$``: k8s.io/kubernetes/third_party/forked/golang/expansion.
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\)|)")


class Role(StrEnum):
    """What a container of ours does."""

    INIT = "init"
    RUN = "run"
    HTTP = "http-proxy"
    DNS = "dns-proxy"


@dataclass(slots=True)
class Container:
    """One container. ``env`` has its EGRESS_* variables, ``outside`` those whose value is not in the files, with
    where it comes from; ``all_env`` has every variable.

    ``known`` is False where the role follows from the variables alone: the image and the command tell nothing.
    """

    name: str
    raw: dict[str, Any]
    init: bool
    all_env: dict[str, str] = field(default_factory=dict)
    all_outside: dict[str, str] = field(default_factory=dict)
    files: dict[str, SourceText | Problem] = field(default_factory=dict)
    roles: frozenset[Role] = frozenset()
    known: bool = False
    #: The mount of each file that a ``*_FILE`` variable names.
    mounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The keys of ConfigMaps and Secrets (by id) that its variables and files come from.
    reads: set[tuple[int, str]] = field(default_factory=set)

    @property
    def env(self) -> dict[str, str]:
        """Its EGRESS_* variables."""
        return {name: value for name, value in self.all_env.items() if name.startswith("EGRESS_")}

    @property
    def outside(self) -> dict[str, str]:
        """Its EGRESS_* variables whose value is not in the files."""
        return {name: where for name, where in self.all_outside.items() if name.startswith("EGRESS_")}

    @property
    def names(self) -> set[str]:
        """The names of its EGRESS_* variables."""
        return self.env.keys() | self.outside.keys()

    @property
    def mode(self) -> str:
        """EGRESS_ROUTER_MODE, ``legacy`` where it is not set."""
        return self.env.get("EGRESS_ROUTER_MODE", "").strip().lower() or "legacy"

    @property
    def stays(self) -> bool:
        """Whether it is to run as long as the pod: a main container, or a sidecar among the init containers."""
        return not self.init or self.raw.get("restartPolicy") == "Always"

    def inputs(self, names: frozenset[str] | None = None) -> Inputs:
        """Return its variables as parsers take them, or those of ``names``."""
        chosen = {name: value for name, value in self.env.items() if names is None or name in names}
        return Inputs(chosen, self.files)


@dataclass(slots=True)
class ManifestPod:
    """A pod, or a template of pods, whose containers have EGRESS_* variables."""

    item: ManifestObject
    containers: list[Container]

    @property
    def name(self) -> str:
        """How it is called in messages."""
        return self.item.where

    @property
    def ours(self) -> list[Container]:
        """The containers that are egress routers or parts of one."""
        return [container for container in self.containers if container.roles]

    @property
    def env(self) -> dict[str, str]:
        """The EGRESS_* variables of all containers together; the first one that has a variable wins."""
        found: dict[str, str] = {}
        for container in self.containers:
            for name, value in container.env.items():
                found.setdefault(name, value)
        return found

    @property
    def outside(self) -> dict[str, str]:
        """The EGRESS_* variables whose value is not in the files."""
        found: dict[str, str] = {}
        for container in self.containers:
            found |= {name: where for name, where in container.outside.items() if name not in self.env}
        return found

    def with_role(self, role: Role) -> Container | None:
        """Return the first container with a role."""
        return next((container for container in self.containers if role in container.roles), None)


def manifest_pods(objects: Objects, problems: Problems) -> list[ManifestPod]:
    """Return the pods that have EGRESS_* variables, or an image of an egress router, with their containers.

    Variables are resolved as the kubelet does: ``envFrom``, then ``env`` in its order, ``$(NAME)`` expanded, values and
    mounted files taken from ConfigMaps and Secrets of the same namespace. A value that is no text is noted as an
    error, since the API server refuses it; what comes from elsewhere as a warning.
    """
    found = []
    for item in objects.workloads():
        mine = Problems()
        pod = ManifestPod(item, _containers(item, objects, mine))
        if not any(map(_is_one, pod.containers)):
            continue
        if why := over(item):
            problems.warn(item.where, None, "", f"{why}: passed over")
            continue
        problems.errors += mine.errors
        problems.warnings += mine.warnings
        _assign_roles(pod)
        found.append(pod)
    return found


def over(item: ManifestObject) -> str:
    """Say why a pod of a dump holds its address no longer, "" where it may."""
    if item.kind != "Pod":
        return ""
    phase = as_text(as_mapping(item.raw.get("status")).get("phase"))
    if phase in ("Succeeded", "Failed"):
        return f"has ended ({phase})"
    return "is being deleted" if item.metadata.get("deletionTimestamp") else ""


def _is_one(container: Container) -> bool:
    """Return whether a container is, or may be, one of an egress router; agents of egress IPs are none."""
    verb = _verb(container)
    return verb in _VERBS or (verb is None and bool(container.names - set(NODE)))


def _containers(item: ManifestObject, objects: Objects, problems: Problems) -> list[Container]:
    spec = item.pod_spec
    made = []
    own = Problems()
    _lists(item, "", spec, ("initContainers", "containers", "volumes"), own)
    for init, raw in (
        *((True, one) for one in as_list(spec.get("initContainers"))),
        *((False, one) for one in as_list(spec.get("containers"))),
    ):
        container = Container(as_text(raw.get("name")) or "?", raw, init)
        _lists(item, container.name, raw, ("env", "envFrom", "volumeMounts", "ports"), own)
        _Environment(item, objects, container, own).read()
        made.append(container)
    if any(map(_is_one, made)):
        problems.errors += dict.fromkeys(own.errors)
        problems.warnings += dict.fromkeys(own.warnings)
    return made


def _lists(item: ManifestObject, where: str, raw: Mapping[str, Any], names: Iterable[str], problems: Problems) -> None:
    """Note the fields that are no lists of mappings: the API server refuses them, and nothing can be read there."""
    for name in names:
        value = raw.get(name)
        if value is None or (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            continue
        kinds: dict[type, str] = {list: "has entries that are no mappings", dict: "is a mapping"}
        what = kinds.get(type(value), "is no list")
        problems.error(f"{item.where} {where} {name}".replace("  ", " "), None, "", what, "a list of mappings")


class _Environment:
    """Resolves the variables of one container."""

    def __init__(self, item: ManifestObject, objects: Objects, container: Container, problems: Problems) -> None:
        self._item = item
        self._objects = objects
        self._container = container
        self._problems = problems

    def read(self) -> None:
        """Fill in variables and files."""
        for source in as_list(self._container.raw.get("envFrom")):
            self._from(source)
        for variable in as_list(self._container.raw.get("env")):
            self._variable(as_text(variable.get("name")), variable)
        for name, path in list(self._container.env.items()):
            if name.endswith("_FILE") and path.strip():
                self._container.files[name] = self._file(name, path.strip())
                self._leave_out(name)

    def _leave_out(self, name: str) -> None:
        """Take away a file that is elsewhere, as Secrets should be, unless it is a list: that must be judged."""
        found = self._container.files[name]
        if isinstance(found, Problem) and found.expected == _ELSEWHERE and "DESTINATION" not in name:
            del self._container.files[name]
            self._set(name, None, found.message.removeprefix("is in "))

    def _from(self, source: dict[str, Any]) -> None:
        for kind, field_ in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            reference = source.get(field_)
            if not isinstance(reference, dict):
                continue
            name, prefix = as_text(reference.get("name")), as_text(source.get("prefix"))
            data = self._data(kind, name)
            self._read(kind, name, *(data or ()))
            if data is None:
                if reference.get("optional") is not True:
                    message = (
                        f"envFrom takes variables from the {kind} {name}, which is not in it; they were not checked"
                    )
                    self._problems.warn(self._item.file, None, "", message)
                continue
            for key, value in data.items():
                self._set(f"{prefix}{key}", value, None)

    def _variable(self, name: str, variable: dict[str, Any]) -> None:
        value, source = variable.get("value"), variable.get("valueFrom")
        if not name:
            return
        if isinstance(source, dict) and not value:
            found, where = self._value_from(source)
            self._set(name, found, where)
        elif value is None or isinstance(value, str):
            self._expand(name, value or "")
        else:
            self._set(name, value, None)

    def _set(self, name: str, value: Any, outside: str | None) -> None:
        self._container.all_env.pop(name, None)
        self._container.all_outside.pop(name, None)
        if outside:
            self._container.all_outside[name] = outside
            if name.startswith("EGRESS_") and name != "EGRESS_HOST_IPS":
                self._problems.warn(name, None, "", f"comes from {outside} and was not checked")
        elif isinstance(value, str):
            self._container.all_env[name] = value
        elif value is not None:
            kind = _KINDS.get(type(value), "structure")
            self._problems.error(name, None, _shown(value), f"is a {kind}, not a string", "quotes around it")

    def _expand(self, name: str, text: str) -> None:
        outside = ""

        def replace(match: re.Match[str]) -> str:
            nonlocal outside
            if match[0] == "$$":
                return "$"
            if match[1] is None:
                return "$"
            if match[1] in self._container.all_outside:
                outside = f"$({match[1]}), which comes from {self._container.all_outside[match[1]]}"
            return self._container.all_env.get(match[1], match[0])

        self._set(name, _REFERENCE.sub(replace, text), None)
        if outside:
            self._set(name, None, outside)

    def _value_from(self, source: dict[str, Any]) -> tuple[str | None, str | None]:
        for kind, field_ in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            reference = source.get(field_)
            if isinstance(reference, dict):
                data = self._data(kind, as_text(reference.get("name")))
                value = (data or {}).get(as_text(reference.get("key")))
                self._read(kind, as_text(reference.get("name")), as_text(reference.get("key")))
                if data is not None and value is None:
                    if reference.get("optional") is not True:
                        where = f"{kind} {as_text(reference.get('name'))} has no key {as_text(reference.get('key'))}"
                        self._problems.error(self._item.where, None, "", f"{self._container.name}: the {where}")
                    return None, None
                name = as_text(reference.get("name"))
                return (value, None) if value is not None else (None, f"outside of {self._item.file} ({kind} {name})")
        reference = source.get("fieldRef")
        if isinstance(reference, dict):
            return self._own_field(as_text(reference.get("fieldPath")))
        reference = source.get("resourceFieldRef")
        if isinstance(reference, dict):
            return None, f"the container's {as_text(reference.get('resource'))}"
        return None, f"outside of {self._item.file}"

    def _own_field(self, path: str) -> tuple[str | None, str | None]:
        metadata = as_mapping(self._item.template.get("metadata"))
        if path == "metadata.namespace" and self._item.namespace:
            return self._item.namespace, None
        if path == "metadata.name" and self._item.kind == "Pod":
            return self._item.name, None
        match = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if match is not None:
            value = as_mapping(metadata.get(match[1])).get(match[2])
            return (value, None) if isinstance(value, str) else ("", None)
        return None, f"the pod's field {path}"

    def _read(self, kind: str, name: str, *keys: str) -> None:
        item = self._objects.find(kind, self._item.namespace, name)
        if item is not None:
            self._container.reads |= {(id(item), key) for key in keys}

    def _data(self, kind: str, name: str) -> dict[str, str] | None:
        """Return the keys of a ConfigMap or Secret, None when it is not in the files."""
        item = self._objects.find(kind, self._item.namespace, name)
        if item is None:
            return None
        data: dict[str, str] = {}
        encoded = as_mapping(item.raw.get("data" if kind == "Secret" else "binaryData"))
        for key, value in encoded.items():
            try:
                data[key] = base64.b64decode(as_text(value), validate=False).decode("utf-8", "replace")
            except (binascii.Error, ValueError):
                self._problems.error(f"{item.where} {key}", None, "", "is not base64")
        for key, value in as_mapping(item.raw.get("stringData" if kind == "Secret" else "data")).items():
            if isinstance(value, str):
                data[key] = value
            elif value is not None:
                what = _KINDS.get(type(value), "structure")
                message = f"is a {what}, not a string"
                self._problems.error(f"{item.where} {key}", None, _shown(value), message, "quotes around it")
        return data

    def _file(self, variable: str, path: str) -> SourceText | Problem:
        volumes = {as_text(one.get("name")): one for one in as_list(self._item.pod_spec.get("volumes"))}
        mounts = as_list(self._container.raw.get("volumeMounts"))
        path = posixpath.normpath(path)
        for mount in sorted(mounts, key=lambda one: len(as_text(one.get("mountPath"))), reverse=True):
            inside = self._inside(path, mount)
            volume = volumes.get(as_text(mount.get("name")))
            if inside is None or volume is None:
                continue
            self._container.mounts[variable] = mount
            return self._in_volume(variable, path, inside, volume)
        message = f"is in no ConfigMap of {self._item.file} that the container mounts"
        return Problem(variable, None, path, message, "a key of a ConfigMap that it mounts")

    def _in_volume(self, variable: str, path: str, inside: str, volume: Mapping[str, Any]) -> SourceText | Problem:
        missing = lacking = ""
        for kind, name, items in _sources(volume):
            data = self._data(kind, name)
            if data is None:
                missing = missing or f"the {kind} {name}"
                continue
            renamed = {as_text(one.get("path")): as_text(one.get("key")) for one in as_list(items)}
            key = renamed.get(inside, "" if renamed else inside)
            if key in data:
                self._read(kind, name, key)
                return SourceText(variable, data[key])
            files = ", ".join(sorted(renamed if renamed else data)) or "nothing"
            lacking = f"is not in the {kind} {name}, which has {files} there"
        if missing:
            return self._elsewhere(variable, path, f"{missing}, which is not in {self._item.file}")
        if lacking:
            return Problem(variable, None, path, lacking, "a key of it, or one of its items")
        what = next((one for one in volume if one != "name"), "volume")
        return self._elsewhere(variable, path, f"a volume ({what}), outside of {self._item.file}")

    def _inside(self, path: str, mount: Mapping[str, Any]) -> str | None:
        """Return the path inside of the mounted volume, None when the mount does not hold the file."""
        at = as_text(mount.get("mountPath")).rstrip("/")
        sub = as_text(mount.get("subPath"))
        if expression := as_text(mount.get("subPathExpr")):
            sub = _REFERENCE.sub(lambda one: self._container.all_env.get(one[1] or "", one[0]), expression)
        if path == at and sub:
            return sub
        if not path.startswith(at + "/"):
            return None
        # The kubelet's link to what the volume has now.
        inside = path[len(at) + 1 :].removeprefix("..data/")
        return f"{sub.rstrip('/')}/{inside}" if sub else inside

    def _elsewhere(self, variable: str, path: str, where: str) -> Problem:
        return Problem(variable, None, path, f"is in {where}", _ELSEWHERE)


def _sources(volume: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield what a volume takes files from: ConfigMap or Secret, its name, the chosen items."""
    sources = [volume, *as_list(as_mapping(volume.get("projected")).get("sources"))]
    for source in sources:
        if isinstance(source.get("configMap"), dict):
            yield "ConfigMap", as_text(source["configMap"].get("name")), source["configMap"].get("items")
        if isinstance(source.get("secret"), dict):
            secret = source["secret"]
            yield "Secret", as_text(secret.get("secretName")) or as_text(secret.get("name")), secret.get("items")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else ""


def _assign_roles(pod: ManifestPod) -> None:
    """Tell what each container is: by its command, by its image, else by its variables."""
    for container in pod.containers:
        verb = _verb(container)
        if verb == "init" and not container.init and container.mode == "legacy":
            # Without a mode, `init` stays.
            verb = "run"
        if verb in _VERBS:
            container.roles, container.known = frozenset({Role(verb)}), True
    prepared = any(container.init and (container.roles or container.names) for container in pod.containers)
    for container in pod.containers:
        if container.known or not _is_one(container):
            continue
        if container.init:
            container.roles = frozenset({Role.INIT})
            continue
        roles = set()
        if container.names & set(HTTP_PROXY):
            roles.add(Role.HTTP)
        if container.names & set(DNS_PROXY):
            roles.add(Role.DNS)
        own = container.names & {
            "EGRESS_GATEWAY",
            "EGRESS_ROUTER_MODE",
            "EGRESS_DESTINATION",
            "EGRESS_DESTINATION_FILE",
        }
        # Behind an init container of ours, what has a part of the variables alone is no router.
        whole = {"EGRESS_SOURCE", "EGRESS_GATEWAY"} <= container.names and own - {"EGRESS_GATEWAY"}
        if whole if prepared else own or (not roles and container.names & set(ROUTER)):
            roles.add(Role.RUN)
        container.roles = frozenset(roles)


def _verb(container: Container) -> str | None:
    """Return the verb of ``egress-router`` that a container starts, "" for one that makes no router, None when the
    container is none of ours as far as one can tell.
    """
    words = (
        [as_text(word) for key in ("command", "args") for word in container.raw.get(key) or () if isinstance(word, str)]
        if all(isinstance(container.raw.get(key) or [], list) for key in ("command", "args"))
        else []
    )
    image = _image_name(container)
    kind = next((role for pattern, role in _IMAGES if pattern.fullmatch(image)), None)
    for index, word in enumerate(words):
        if PurePosixPath(word).name == "egress-router":
            verb = words[index + 1] if index + 1 < len(words) else ""
            return verb if verb in _VERBS else ""
    if container.raw.get("command"):
        # A command of its own, such as a shell: no telling.
        return None
    if kind is not None and words[:1] and words[0] in _VERBS:
        return words[0]
    return kind


def _image_name(container: Container) -> str:
    """Return the last part of the image's name, without registry, tag and digest."""
    return as_text(container.raw.get("image")).split("@")[0].rsplit("/", 1)[-1].split(":")[0]


def pauses(container: Container) -> bool:
    """Return whether a container does nothing but wait, as the main one of a redirect router did."""
    image = _image_name(container)
    return image in ("origin-pod", "ose-pod", "pod", "pause") or image.startswith("pause-")
