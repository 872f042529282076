"""ManifestSet → YAML, one template for each object."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from egress_router.config.kubernetes_yaml import is_text, parse_documents
from egress_router.errors import ConfigurationError, Problem
from egress_router.manifests.values import Component, ManifestSet, Platform

#: A Service with more ports than these is headless and needs none.
MAX_LISTED_PORTS = 250
_WIDTH = 1 << 30
#: Line breaks to YAML 1.1, and text to YAML 1.2.
_BREAKS = frozenset("\x85\u2028\u2029")
#: Fields of kept parts that templates write in their own places.
_PLACED = frozenset({"env", "volumeMounts", "resources", "tolerations", "terminationGracePeriodSeconds", "sysctls"})
PART_OF = "egress-router"
#: The first field of an object, as the templates write it, that does not say what it is.
_BEHIND_METADATA = re.compile(r"^(?!apiVersion:|kind:|metadata:)[a-zA-Z]", re.MULTILINE)
_MEMORY = {
    Component.REDIRECT: {"request": "64Mi", "limit": "256Mi"},
    # 4096 clients of Squid, and two of them side by side during a reload.
    Component.HTTP_PROXY: {"request": "128Mi", "limit": "1Gi"},
    Component.DNS_PROXY: {"request": "64Mi", "limit": "512Mi"},
    Component.TLS_PROXY: {"request": "64Mi", "limit": "512Mi"},
}


def render_manifests(plan: ManifestSet) -> str:
    """Return the objects in the order in which they have to be created. The same plan always makes the same bytes."""
    selector = {"app.kubernetes.io/name": "egress-router", "app.kubernetes.io/instance": plan.name}
    values = {
        "plan": plan,
        "selector": selector,
        "labels": {
            **selector,
            "app.kubernetes.io/part-of": PART_OF,
            "app.kubernetes.io/managed-by": PART_OF,
            "app.kubernetes.io/version": plan.version,
        },
        "ports": plan.service_ports if not plan.headless or len(plan.service_ports) <= MAX_LISTED_PORTS else (),
        "memory": _MEMORY[plan.component],
    }
    return "---\n".join(_documents(plan, values))


def join_manifests(texts: Sequence[str]) -> str:
    """Return the objects of several routers as one text. Raises ConfigurationError when two objects are the same."""
    text = "---\n".join(texts)
    seen: set[tuple[str, str, str]] = set()
    problems = []
    for document in text.split("\n---\n"):
        # Kind and metadata stand at the beginning; the rest is long.
        (head,) = parse_documents(_BEHIND_METADATA.split(document, maxsplit=1)[0])
        metadata = head.value["metadata"]
        identity = (head.value["kind"], metadata.get("namespace", ""), metadata["name"])
        if identity in seen:
            where = f" in the namespace {identity[1]}" if identity[1] else ""
            message = f"{identity[0]} {identity[2]}{where} would be written twice, and the last one would win"
            problems.append(Problem(identity[0], None, "", message, "other names in the old manifests"))
        seen.add(identity)
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))
    return text


def _documents(plan: ManifestSet, values: Mapping[str, object]) -> Iterator[str]:
    templates = _environment()
    for name in _objects(plan):
        if name == "service" and plan.services:
            template = templates.get_template("kept-service.yaml.j2")
            yield from (template.render(values, service=service) for service in plan.services)
        else:
            yield templates.get_template(f"{name}.yaml.j2").render(values)
    for router in plan.routers:
        yield templates.get_template("router.yaml.j2").render(values, router=router)


def _objects(plan: ManifestSet) -> Iterator[str]:
    kubernetes = plan.platform is Platform.KUBERNETES
    wanted = {
        "namespace": plan.create_namespace,
        "service-account": True,
        "security-context-constraints": not kubernetes,
        "network-attachment": plan.network_config is not None,
        "config-map": True,
        "service": True,
        "peers-service": plan.pair is not None,
        "network-policy": True,
        "pod-disruption-budget": plan.redundant,
        "service-monitor": plan.metrics_port is not None,
    }
    return (name for name, is_wanted in wanted.items() if is_wanted)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("egress_router.manifests"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # no HTML; text goes through the filters below
    )
    environment.filters |= {"quote": quote, "block": block, "flow": flow, "mapping": mapping}
    environment.filters |= {"fragment": fragment, "items": items, "other": other}
    return environment


@lru_cache(maxsize=1024)
def quote(text: str) -> str:
    """Return a text as a YAML scalar in double quotes, on one line."""
    return str(yaml.safe_dump(text, default_style='"', width=_WIDTH, allow_unicode=True)).rstrip("\n")


def block(text: str, indent: int) -> str:
    """Return a text of several lines as a literal block, indented by ``indent``; quoted where that is no block."""
    if not _BREAKS.isdisjoint(text):
        return quote(text)
    scalar = str(yaml.safe_dump(text, default_style="|", width=_WIDTH, allow_unicode=True))
    head, *lines = scalar.removesuffix("...\n").removesuffix("\n").split("\n")
    # The dumper indents by two.
    return "\n".join([head, *((" " * (indent - 2) + line).rstrip(" ") if line.strip(" ") else "" for line in lines)])


class _Dumper(yaml.SafeDumper):
    """Writes what is kept from other manifests: in the style of the templates, and texts so that Kubernetes reads
    them as texts.
    """

    def ignore_aliases(self, data: object) -> bool:
        """Write a value in each place where it stands."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists."""
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if is_text(text) and _BREAKS.isdisjoint(text) else '"'
    if "\n" in text.rstrip("\n") and style is None:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


#: Values that are remembered by what they are: routers of one manifest have much in common, and writing is slow.
_known: dict[str, str] = {}
_MOST_KNOWN = 1024


def _dumped(value: object, indent: int) -> list[str]:
    key = repr(value)
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _written(value)
    return [" " * indent + line if line else "" for line in _known[key].split("\n")]


def _written(value: object) -> str:
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=_WIDTH, allow_unicode=True)
    return str(text).rstrip("\n")


def fragment(value: Mapping[str, object], indent: int) -> str:
    """Return a mapping in lines of its own, each indented by ``indent``; ``{}`` on the same line when it is empty."""
    return "\n" + "\n".join(_dumped(value, indent)) if value else " {}"


def items(values: Sequence[object] | None, indent: int) -> list[str]:
    """Return the lines of a list, none when there is nothing in it."""
    return _dumped(list(values), indent) if values else []


def other(value: Mapping[str, object], indent: int) -> list[str]:
    """Return the lines of those fields that have no place of their own in a template."""
    rest = {key: item for key, item in value.items() if key not in _PLACED}
    return _dumped(rest, indent) if rest else []


def flow(words: Iterable[str]) -> str:
    """Return words as a YAML sequence on one line."""
    return "[" + ", ".join(quote(word) for word in words) + "]"


def mapping(items: Mapping[str, str], indent: int) -> str:
    """Return a mapping in lines of its own, each indented by ``indent``."""
    return "".join(f"\n{' ' * indent}{key}: {quote(value)}" for key, value in items.items())
