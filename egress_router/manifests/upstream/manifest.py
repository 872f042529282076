"""Manifests of other egress routers → LegacyRouter, with notes of what was wrong there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from egress_router.config.inputs import Problems
from egress_router.config.manifest import as_list, as_mapping, manifest_objects, name_of
from egress_router.errors import ConfigurationError, Problem
from egress_router.manifests.upstream.pod import WORKLOADS, read_pods
from egress_router.manifests.values import Component, Kind, LegacyRouter, ManifestRequest, Note, NoteKind, Platform

# The EgressRouter resource of OVN-Kubernetes (network.operator.openshift.io/v1) → LegacyRouter.
#
# What its operator does with it: the cluster network operator's manifests for egress-router (bindata/egress-router).

Say = Callable[[str], None]

#: The bridge that carries the node's address with OVN-Kubernetes.
NODE_BRIDGE = "br-ex"


def read_resource(
    item: Mapping[str, Any], defaults: ManifestRequest, problems: Problems, notes: list[Note]
) -> list[LegacyRouter]:
    """Return the router that an EgressRouter asks for, none when it cannot be told."""
    where = f"EgressRouter/{name_of(item)}"
    spec = as_mapping(item.get("spec"))

    def wrong(text: str) -> None:
        notes.append(Note(NoteKind.WRONG, where, text))

    def changed(text: str) -> None:
        notes.append(Note(NoteKind.CHANGED, where, text))

    if spec.get("mode", "Redirect") != "Redirect":
        problems.error(f"{where} spec.mode", None, str(spec.get("mode")), "is not known", "Redirect")
    addresses = as_list(spec.get("addresses"))
    if not addresses:
        problems.error(f"{where} spec.addresses", None, "", "is empty", "an ip and a gateway")
        return []
    if len(addresses) > 1:
        wrong("of several spec.addresses the operator used the first alone; here each family may have one")
    wrong("its Deployment had no strategy, so that an update ran two pods with one address; ours is Recreate")
    wrong("all routers of a namespace shared the name egress-router-cni-deployment, so the last one won")
    changed("the CNI plugin egress-router is replaced by a macvlan and an init container, whose log says what it did")
    redirect = as_mapping(spec.get("redirect"))
    lines = [_rule(rule) for rule in as_list(redirect.get("redirectRules"))]
    fallback = redirect.get("fallbackIP")
    if fallback:
        wrong("the fallbackIP made the operator write a network configuration that is no JSON; it works here")
        lines.append(str(fallback))
    namespace = str(as_mapping(item.get("metadata")).get("namespace") or defaults.namespace)
    request = replace(
        _attached(as_mapping(spec.get("networkInterface")), defaults, wrong, changed),
        component=Component.REDIRECT,
        name=name_of(item),
        namespace=namespace,
        headless=not any(len(line.split()) > 1 for line in lines),
    )
    sources, gateways = zip(*((str(one.get("ip", "")), str(one.get("gateway", ""))) for one in addresses), strict=True)
    text = "".join(f"{line}\n" for line in lines)
    return [LegacyRouter(where, request, " ".join(sources), " ".join(gateways), text, f"{where} spec.redirect")]


def _attached(network: Mapping[str, Any], defaults: ManifestRequest, wrong: Say, changed: Say) -> ManifestRequest:
    macvlan = as_mapping(network.get("macvlan"))
    if network:
        wrong("spec.networkInterface was ignored by the operator: the macvlan was always on the node's default NIC")
    if defaults.platform is Platform.KUBERNETES or defaults.network or defaults.parent_interface:
        return defaults
    master = str(macvlan.get("master") or NODE_BRIDGE)
    if not macvlan.get("master"):
        changed(f"the macvlan is on {master}, the node's NIC with OVN-Kubernetes; --parent-interface names another")
    return replace(defaults, parent_interface=master, sdn=None)


def _rule(rule: Mapping[str, Any]) -> str:
    words = [str(rule.get(name, "?")) for name in ("port", "protocol", "destinationIP")]
    if rule.get("targetPort"):
        words.append(str(rule["targetPort"]))
    return " ".join(words)


# Manifests of other egress routers → LegacyRouter, with notes of what was wrong there.

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


def parse_legacy(
    text: str, label: str, defaults: ManifestRequest, problems: Problems
) -> tuple[list[LegacyRouter], list[Note]]:
    """Return the routers of a YAML text and the notes about them.

    ``defaults`` has what the command line asks for; what it leaves open (name, kind, namespace) comes from the
    text. Raises ConfigurationError when the text is no YAML or has no router.
    """
    mended, notes = mend(text, label)
    objects = manifest_objects(mended, label)
    routers: list[LegacyRouter] = []
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


def _with_service(router: LegacyRouter, objects: list[dict[str, Any]], notes: list[Note]) -> LegacyRouter:
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


def _refuse_twins(routers: list[LegacyRouter], problems: Problems) -> None:
    owners: dict[str, str] = {}
    for router in routers:
        for word in router.source.replace(",", " ").split():
            other = owners.setdefault(word.partition("/")[0], router.where)
            if other != router.where:
                message = f"is the address of {other} too: two pods must never hold one address"
                problems.error(f"{router.where} EGRESS_SOURCE", None, word, message, "an address of its own")


def _where(item: Mapping[str, Any]) -> str:
    return f"{item.get('kind')}/{name_of(item)}"
