"""The EgressRouter resource of OVN-Kubernetes (network.operator.openshift.io/v1) → OldRouter.

What its operator does with it: the cluster network operator's manifests for egress-router (bindata/egress-router).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from egress_router.config.inputs import Problems
from egress_router.config.manifest import as_list, as_mapping, name_of
from egress_router.model.manifests import Component, ManifestRequest, Platform
from egress_router.model.migration import Note, NoteKind, OldRouter

Say = Callable[[str], None]

#: The bridge that carries the node's address with OVN-Kubernetes.
NODE_BRIDGE = "br-ex"


def read_resource(
    item: Mapping[str, Any], defaults: ManifestRequest, problems: Problems, notes: list[Note]
) -> list[OldRouter]:
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
    return [OldRouter(where, request, " ".join(sources), " ".join(gateways), text, f"{where} spec.redirect")]


def _attached(network: Mapping[str, Any], defaults: ManifestRequest, wrong: Say, changed: Say) -> ManifestRequest:
    macvlan = as_mapping(network.get("macvlan"))
    if network:
        wrong("spec.networkInterface was ignored by the operator: the macvlan was always on the node's default NIC")
    if defaults.platform is Platform.KUBERNETES or defaults.network or defaults.parent_interface:
        return defaults
    master = str(macvlan.get("master") or NODE_BRIDGE)
    if not macvlan.get("master"):
        changed(f"the macvlan is on {master}, the node's NIC with OVN-Kubernetes; --parent-interface names another")
    return replace(defaults, parent_interface=master)


def _rule(rule: Mapping[str, Any]) -> str:
    words = [str(rule.get(name, "?")) for name in ("port", "protocol", "destinationIP")]
    if rule.get("targetPort"):
        words.append(str(rule["targetPort"]))
    return " ".join(words)
