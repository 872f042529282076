"""The order of steps of the evening on which the old router goes and the new one comes."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from egress_router.manifests.objects import ManifestObject
from egress_router.manifests.plan import has_init_container
from egress_router.manifests.values import Component, ManifestRequest, Platform

#: More objects than these are not listed.
_LISTED = 20


def evening(requests: Sequence[ManifestRequest], old: Sequence[ManifestObject]) -> str:
    """Return the steps as lines of comments, for standard error. ``old`` are the objects that are replaced."""
    lines = ["# In this order:"]
    number = 0

    def step(text: str) -> None:
        nonlocal number
        number += 1
        lines.append(f"#  {number}. {text}")

    tool = "oc" if any(request.platform is Platform.OPENSHIFT for request in requests) else "kubectl"
    spaces = list(dict.fromkeys(request.namespace for request in requests))
    space = spaces[0] if len(spaces) == 1 else "NAMESPACE"
    names = list(dict.fromkeys(name for request in requests for name in _names(request)))
    name = names[0] if len(names) == 1 else "NAME"
    step(f"Keep the way back: {_kept(old, tool)}.")
    made = f"{tool} new-project {space}" if tool == "oc" else f"{tool} create namespace {space}"
    rights = "" if tool == "oc" else "; it must allow privileged pods (Pod Security)"
    step(f"The namespace must be there ({', '.join(spaces)}): {made}{rights}.")
    step(
        "Take the old pod away and wait until it is gone: the address is in use until then, and the new pod waits (75)."
    )
    if any(service.spec for request in requests for service in request.services):
        step(
            "Services keep their names, so clients need not change. A selector may change, clusterIP may not: where "
            "the old Service had an address and the new one is headless (or the other way round), delete it first."
        )
    else:
        step("A Service that was made by hand (oc create service) under one of these names: delete it, it would clash.")
    step(f"{tool} apply -f new.yaml; a Deployment's selector cannot change: delete an old one of the same name first.")
    outside = any(service.open_to_the_outside for request in requests for service in request.services)
    who = "anyone in, for a Service is reached from outside," if outside else "the pods of the cluster in"
    step(f"New: a NetworkPolicy, which lets {who} to the ports of the list; limits of containers.")
    step(
        f"Clients that use {name}.{space} find it from everywhere; {name} alone works in its own namespace. "
        + ("In http_proxy as well; NO_PROXY needs .svc as before." if _proxies(requests) else "")
    )
    workload = _workload(requests, name)
    container = " -c init" if all(map(has_init_container, requests)) else ""
    step(f"Look: {tool} -n {space} logs deploy/{workload}{container}; the gateway has a new MAC for the address.")
    step(f"The way back: {tool} delete -f new.yaml, wait, and apply what the first step has kept.")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _kept(old: Sequence[ManifestObject], tool: str) -> str:
    """Return the commands that write the old objects to files, one for each namespace."""
    spaces: dict[str, list[str]] = {}
    known = {item.namespace for item in old if item.namespace}
    # An object without a namespace was taken for one of the only namespace that is named.
    default = known.pop() if len(known) == 1 else ""
    for item in old:
        if item.name != "?":
            spaces.setdefault(item.namespace or default, []).append(quote(f"{item.kind}/{item.name}"))
    if not spaces or sum(map(len, spaces.values())) > _LISTED:
        return f"{tool} get -o yaml of the old objects, to a file"
    commands = []
    for space, names in spaces.items():
        file = quote(f"before-{space}.yaml") if space and len(spaces) > 1 else "before.yaml"
        where = f"-n {quote(space)} " if space else ""
        commands.append(f"{tool} get {where}{' '.join(dict.fromkeys(names))} -o yaml > {file}")
    return "; ".join(commands) + ("" if all(spaces) else " (in the namespace where they are)")


def _names(request: ManifestRequest) -> list[str]:
    """Return the names of the Services."""
    return [service.name for service in request.services] or [request.name]


def _proxies(requests: Sequence[ManifestRequest]) -> bool:
    return any(request.component is Component.HTTP_PROXY for request in requests)


def _workload(requests: Sequence[ManifestRequest], name: str) -> str:
    """Return the name of the one Deployment, ``name`` for several."""
    alone = len(requests) == 1 and len(requests[0].owners) == 1
    return requests[0].name if alone else f"{name}-N" if len(requests) == 1 else "NAME"
