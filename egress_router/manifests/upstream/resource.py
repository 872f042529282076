"""EgressRouter objects of OVN-Kubernetes (network.operator.openshift.io/v1) → LegacyRouter.

What its operator does with them: the cluster network operator's manifests for egress-router (bindata/egress-router).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from egress_router.config.inputs import Problems
from egress_router.manifests.objects import ManifestObject, as_list, as_mapping, as_text
from egress_router.manifests.upstream.kept import Notebook
from egress_router.manifests.values import Component, LegacyRouter, ManifestRequest, NoteKind, Platform

#: The bridge that carries the node's address with OVN-Kubernetes.
NODE_BRIDGE = "br-ex"
#: The label of the pods that the operator makes.
OPERATOR_LABELS = {"app": "egress-router-cni"}


def router_of_resource(
    item: ManifestObject, defaults: ManifestRequest, given: set[str], problems: Problems, note: Notebook
) -> LegacyRouter | None:
    """Return the router that an EgressRouter asks for, None when it cannot be told."""
    spec = item.spec
    if spec.get("mode", "Redirect") != "Redirect":
        problems.error(f"{item.where} spec.mode", None, as_text(spec.get("mode")), "is not known", "Redirect")
    addresses = as_list(spec.get("addresses"))
    if not addresses and not {"source", "gateway"} <= given:
        expected = "an ip and a gateway, or --source and --gateway"
        problems.error(f"{item.where} spec.addresses", None, "", "is empty", expected)
        return None
    redirect = as_mapping(spec.get("redirect"))
    rules = as_list(redirect.get("redirectRules"))
    lines = [_rule(rule) for rule in rules]
    fallback = as_text(redirect.get("fallbackIP"))
    if fallback:
        lines.append(fallback)
    _notes(spec, addresses, note)
    addresses = _one_of_each_family(addresses, note)
    request = replace(
        _attached(as_mapping(spec.get("networkInterface")), defaults, given, note),
        component=Component.REDIRECT,
        name=item.name,
        namespace=item.namespace or defaults.namespace,
        headless=defaults.headless or not rules,
    )
    names = {
        "--source": f"{item.where} spec.addresses[].ip",
        "--gateway": f"{item.where} spec.addresses[].gateway",
        "--destinations": f"{item.where} spec.redirect",
        "--name": f"{item.where} metadata.name",
        "--namespace": f"{item.where} metadata.namespace",
    }
    return LegacyRouter(
        item.where,
        request,
        "" if "source" in given else " ".join(as_text(one.get("ip")) for one in addresses),
        "" if "gateway" in given else " ".join(as_text(one.get("gateway")) for one in addresses),
        "".join(f"{line}\n" for line in lines),
        OPERATOR_LABELS,
        names,
    )


def _notes(spec: Mapping[str, Any], addresses: list[dict[str, Any]], note: Notebook) -> None:
    note.same("addresses, gateway, the redirect rules, the namespace")
    if len(addresses) > 1:
        note.add(
            NoteKind.WRONG, "of several spec.addresses the operator used the first alone; here each family may have one"
        )
    note.add(
        NoteKind.WRONG,
        "its Deployment had no strategy, so that an update ran two pods with one address; "
        "of ours one waits for the other",
    )
    note.add(
        NoteKind.WRONG,
        "all routers of a namespace shared the name egress-router-cni-deployment, so the last one won",
    )
    note.changed(
        "the CNI plugin egress-router is replaced by a macvlan and an init container, whose log says what it did"
    )
    for key in spec:
        if key not in ("mode", "addresses", "redirect", "networkInterface"):
            note.lost(f"spec.{key}")


def _one_of_each_family(addresses: list[dict[str, Any]], note: Notebook) -> list[dict[str, Any]]:
    """Return the first address of each family; nothing ever left with the others."""
    found: dict[bool, dict[str, Any]] = {}
    for one in addresses:
        if found.setdefault(":" in as_text(one.get("ip")), one) is not one:
            note.changed(f"{as_text(one.get('ip'))} is not taken over: a router has one address of each family")
    return list(found.values())


def _attached(
    network: Mapping[str, Any], defaults: ManifestRequest, given: set[str], note: Notebook
) -> ManifestRequest:
    macvlan = as_mapping(network.get("macvlan"))
    mode = as_text(macvlan.get("mode"))
    if mode and mode != "Bridge":
        note.changed(f"spec.networkInterface.macvlan.mode is Bridge, it was {mode}")
    if {"parent-interface", "network", "sdn"} & given or defaults.platform is Platform.KUBERNETES:
        return defaults
    master = as_text(macvlan.get("master"))
    if master:
        text = (
            f"the macvlan is on {master}, as spec.networkInterface says; the operator put it on the node's default NIC"
        )
        note.changed(text)
    else:
        master = NODE_BRIDGE
        note.changed(
            f"the macvlan is on {master}, the node's NIC with OVN-Kubernetes; --parent-interface names another"
        )
    return replace(defaults, parent_interface=master, sdn=None)


def _rule(rule: Mapping[str, Any]) -> str:
    words = [as_text(rule.get(name)) or "?" for name in ("port", "protocol", "destinationIP")]
    target = as_text(rule.get("targetPort"))
    if target and target != "0":
        words.append(target)
    return " ".join(words)
