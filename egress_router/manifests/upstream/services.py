"""The Services of other egress routers: kept as clients know them, on our pods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from egress_router.config.inputs import Problems
from egress_router.manifests.judge import no_strings
from egress_router.manifests.objects import ManifestObject, as_list, as_text, texts
from egress_router.manifests.ports import claimed, fallback_lines
from egress_router.manifests.upstream.kept import OUR_LABELS, Notebook
from egress_router.manifests.values import KeptService, LegacyRouter, ManifestRequest, Note, NoteKind

_GENERATED = ("kubectl.kubernetes.io/last-applied-configuration",)
#: What the API server fills in, and what is given to a Service once.
_DEFAULTS: dict[str, Any] = {
    "type": "ClusterIP",
    "sessionAffinity": "None",
    "internalTrafficPolicy": "Cluster",
    "externalTrafficPolicy": "Cluster",
    "ipFamilyPolicy": "SingleStack",
}
_ONCE = {"selector", "clusterIPs"}


def taken_over(item: ManifestObject, note: Notebook) -> bool:
    """Say what becomes of a Service that selects none of the routers and has the name of ours; return whether its spec
    is worth keeping.
    """
    external = item.spec.get("externalName")
    if item.spec.get("type") == "ExternalName":
        note.changed(f"was an ExternalName for {as_text(external) or '?'}; ours has its name, and selects the routers")
        return False
    selector = texts(item.spec.get("selector"))
    what = ",".join(f"{key}={value}" for key, value in selector.items()) or "nothing"
    note.changed(f"selected {what}, which is none of the routers; ours has its name, and selects them")
    return True


def kept_service(
    item: ManifestObject, containers: Iterable[Mapping[str, Any]], problems: Problems, note: Notebook
) -> KeptService:
    """Return a Service without what is given to it once, its named target ports as numbers; say what is kept."""
    spec = {
        key: value
        for key, value in item.spec.items()
        if key not in _ONCE and value not in (None, [], {}) and _DEFAULTS.get(key, object()) != value
    }
    if spec.get("clusterIP") != "None" and (address := spec.pop("clusterIP", None)):
        note.changed(f"the address {as_text(address)} stays as long as the Service does: apply, and do not delete it")
    if "ipFamilyPolicy" not in spec and item.spec.get("ipFamilies") != ["IPv6"]:
        # What a cluster of one family fills in.
        spec.pop("ipFamilies", None)
    names = {
        as_text(port.get("name")): port.get("containerPort")
        for container in containers
        for port in as_list(container.get("ports"))
    }
    ports = []
    written = spec.get("ports")
    if written is not None and len(as_list(written)) != len(written if isinstance(written, list) else "?"):
        problems.error(f"{item.where} spec.ports", None, "", "is no list of ports", "a list of mappings")
    for port in as_list(written):
        entry = {
            key: value
            for key, value in port.items()
            if key != "nodePort" or spec.get("type", "ClusterIP") != "ClusterIP"
        }
        target = port.get("targetPort", port.get("port"))
        if isinstance(target, str) and not target.isdigit():
            if not isinstance(names.get(target), int):
                message = f"leads to the port {target}, which no container has"
                problems.error(f"{item.where} spec.ports", None, as_text(port.get("port")), message, "a number")
                continue
            note.changed(f"targetPort {target} is {names[target]}: our containers name their ports otherwise")
            target = names[target]
        entry["targetPort"] = int(target) if isinstance(target, str) else target
        ports.append(entry)
    if ports:
        spec["ports"] = ports
    else:
        spec.pop("ports", None)
    numbers = ", ".join(as_text(port.get("port")) for port in ports)
    others = ["clusterIP None" if key == "clusterIP" else key for key in spec if key not in ("ports", "type")]
    for problem in no_strings(item.metadata):
        note.add(NoteKind.WRONG, str(replace(problem, expected="")))
    note.same(", ".join(["name, type", *others, f"ports ({numbers})" if ports else "no ports"]))
    return KeptService(
        item.name,
        spec,
        {key: value for key, value in texts(item.metadata.get("labels")).items() if not key.startswith(OUR_LABELS)},
        {key: value for key, value in texts(item.metadata.get("annotations")).items() if key not in _GENERATED},
    )


def nowhere(request: ManifestRequest, routers: Sequence[LegacyRouter]) -> Iterator[Note]:
    """Yield a note about each port of a kept Service that leads to no line of the list and to no other container."""
    if fallback_lines(request):
        return
    lines = claimed(request)
    others = {
        port.get("containerPort")
        for kept in request.kept
        for one in (*kept.before, *kept.sidecars)
        for port in as_list(one.get("ports"))
    }
    where = ", ".join(router.where for router in routers)
    for service in request.services:
        for port in service.spec.get("ports") or ():
            target, protocol = port.get("targetPort"), as_text(port.get("protocol")).lower() or "tcp"
            known = type(target) is not int or target in others
            if not known and not any(protocol == one and target in ports for one, ports in lines):
                text = f"port {port.get('port')} leads to {target} {protocol}, and no line of {where} claims that"
                yield Note(NoteKind.WRONG, f"Service/{service.name}", text)
