"""Manifests of other egress routers → OldRouter, with notes of what was wrong there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from egress_router.config.inputs import Problems
from egress_router.config.manifest import as_mapping, manifest_objects, name_of
from egress_router.config.old_pod import WORKLOADS, read_pods
from egress_router.config.old_resource import read_resource
from egress_router.errors import ConfigurationError, Problem
from egress_router.model.manifests import Kind, ManifestRequest
from egress_router.model.migration import Note, NoteKind, OldRouter

_MENDED = str.maketrans({"“": '"', "”": '"', "„": '"', "″": '"', "‘": "'", "’": "'", "‚": "'", "‑": "-"})
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u2007\u202f", " "))
#: A dash in front of a list item, or of an option.
_DASH = re.compile(r"^(\s*)[–—](?=\s)", re.MULTILINE)
#: What our own set has in its place.
_REPLACED = {
    "SecurityContextConstraints",
    "ServiceAccount",
    "NetworkAttachmentDefinition",
    "NetworkPolicy",
    "Namespace",
}


def read_old(
    text: str, label: str, defaults: ManifestRequest, problems: Problems
) -> tuple[list[OldRouter], list[Note]]:
    """Return the routers of a YAML text and the notes about them.

    ``defaults`` has what the command line asks for; what it leaves open (name, kind, namespace) comes from the
    text. Raises ConfigurationError when the text is no YAML or has no router.
    """
    mended, notes = mend(text, label)
    objects = manifest_objects(mended, label)
    routers: list[OldRouter] = []
    for item in objects:
        if item.get("kind") == "EgressRouter":
            routers += read_resource(item, defaults, problems, notes)
    routers += read_pods(mended, label, objects, defaults, problems, notes)
    if not routers and not problems.errors:
        expected = "an EgressRouter, or a pod whose containers have EGRESS_* variables"
        raise ConfigurationError([Problem(label, None, "", "has no egress router", expected)])
    routers = [_with_service(router, objects, notes) for router in routers]
    notes += _left_out(objects)
    _refuse_twins(routers, problems)
    return routers, notes


def mend(text: str, label: str) -> tuple[str, list[Note]]:
    """Undo what web pages do to quotes, hyphens and indentation."""
    spaced = text.translate(_SPACES)
    mended = _DASH.sub(r"\1-", spaced).translate(_MENDED)
    notes = []
    if count := len(_differing(text, spaced)):
        what = f"{count} line{'s' * (count > 1)} with no-break spaces, which are no indentation in YAML"
        notes.append(Note(NoteKind.WRONG, label, what))
    if lines := _differing(spaced, mended):
        where = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))}"
        notes.append(Note(NoteKind.WRONG, label, f"typographic quotes and dashes in {where} are no YAML"))
    return mended, notes


def _differing(old: str, new: str) -> list[int]:
    pairs = zip(old.split("\n"), new.split("\n"), strict=True)
    return [number for number, (before, after) in enumerate(pairs, start=1) if before != after]


def _with_service(router: OldRouter, objects: list[dict[str, Any]], notes: list[Note]) -> OldRouter:
    """Keep the name that clients know: that of the Service which selects the pod."""
    labels = next((pod_labels(item) for item in objects if _where(item) == router.where), {})
    for item in objects:
        selector = as_mapping(as_mapping(item.get("spec")).get("selector"))
        if item.get("kind") != "Service" or not selector or not selector.items() <= labels.items():
            continue
        name = name_of(item)
        headless = as_mapping(item.get("spec")).get("clusterIP") == "None"
        if name != router.request.name:
            notes.append(Note(NoteKind.CHANGED, router.where, f"is named {name}, as its Service, which clients know"))
        return replace(router, request=replace(router.request, name=name, headless=headless or router.request.headless))
    return router


def pod_labels(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the labels of the pods that an object makes."""
    source = item if item.get("kind") == "Pod" else as_mapping(as_mapping(item.get("spec")).get("template"))
    return as_mapping(as_mapping(source.get("metadata")).get("labels"))


def _left_out(objects: list[dict[str, Any]]) -> Iterator[Note]:
    for item in objects:
        kind = str(item.get("kind"))
        if kind in _REPLACED:
            yield Note(NoteKind.CHANGED, _where(item), "is no longer needed: ours has its own")
        elif kind not in {*WORKLOADS, *Kind, "EgressRouter", "Service", "ConfigMap"}:
            yield Note(NoteKind.CHANGED, _where(item), "is left out: it is no part of a router")


def _refuse_twins(routers: list[OldRouter], problems: Problems) -> None:
    owners: dict[str, str] = {}
    for router in routers:
        for word in router.source.replace(",", " ").split():
            other = owners.setdefault(word.partition("/")[0], router.where)
            if other != router.where:
                message = f"is the address of {other} too: two pods must never hold one address"
                problems.error(f"{router.where} EGRESS_SOURCE", None, word, message, "an address of its own")


def _where(item: Mapping[str, Any]) -> str:
    return f"{item.get('kind')}/{name_of(item)}"
