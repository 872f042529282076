"""ManifestSet → YAML, one template for each object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from egress_router.manifests.values import Component, ManifestSet, Platform

#: A Service with more ports than these is headless and needs none.
MAX_LISTED_PORTS = 250
_WIDTH = 1 << 30
#: Line breaks to YAML 1.1, and text to YAML 1.2.
_BREAKS = frozenset("\x85\u2028\u2029")
_MEMORY = {
    Component.REDIRECT: {"request": "64Mi", "limit": "256Mi"},
    # 4096 clients of Squid, and two of them side by side during a reload.
    Component.HTTP_PROXY: {"request": "128Mi", "limit": "1Gi"},
    Component.DNS_PROXY: {"request": "64Mi", "limit": "512Mi"},
}


def render_manifests(plan: ManifestSet) -> str:
    """Return the objects in the order in which they have to be created. The same plan always makes the same bytes."""
    values = {
        "plan": plan,
        "labels": {"app.kubernetes.io/name": "egress-router", "app.kubernetes.io/instance": plan.name},
        "ports": plan.service_ports if not plan.headless or len(plan.service_ports) <= MAX_LISTED_PORTS else (),
        "memory": _MEMORY[plan.component],
    }
    return "---\n".join(_documents(plan, values))


def _documents(plan: ManifestSet, values: Mapping[str, object]) -> Iterator[str]:
    templates = _environment()
    for name in _objects(plan):
        yield templates.get_template(f"{name}.yaml.j2").render(values)
    for router in plan.routers:
        yield templates.get_template("router.yaml.j2").render(values, router=router)


def _objects(plan: ManifestSet) -> Iterator[str]:
    kubernetes = plan.platform is Platform.KUBERNETES
    wanted = {
        "namespace": kubernetes,
        "service-account": True,
        "security-context-constraints": not kubernetes,
        "network-attachment": plan.network_config is not None,
        "config-map": True,
        "service": True,
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
    return environment


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


def flow(words: Iterable[str]) -> str:
    """Return words as a YAML sequence on one line."""
    return "[" + ", ".join(quote(word) for word in words) + "]"


def mapping(items: Mapping[str, str], indent: int) -> str:
    """Return a mapping in lines of its own, each indented by ``indent``."""
    return "".join(f"\n{' ' * indent}{key}: {quote(value)}" for key, value in items.items())
