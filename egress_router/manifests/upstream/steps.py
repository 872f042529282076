"""The order of steps of the evening on which the old router goes and the new one comes."""

from __future__ import annotations

from collections.abc import Sequence

from egress_router.manifests.values import Component, ManifestRequest, Platform


def evening(requests: Sequence[ManifestRequest]) -> str:
    """Return the steps as lines of comments, for standard error."""
    lines = ["# In this order:"]
    number = 0

    def step(text: str) -> None:
        nonlocal number
        number += 1
        lines.append(f"#  {number}. {text}")

    tool = "oc" if any(request.platform is Platform.OPENSHIFT for request in requests) else "kubectl"
    spaces = ", ".join(dict.fromkeys(request.namespace for request in requests))
    step(f"Keep the way back: {tool} get -n NAMESPACE -o yaml of the old objects, to a file.")
    step(f"The namespace must be there ({spaces}); on Kubernetes it must allow privileged pods (Pod Security).")
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
    step("New: a NetworkPolicy, which lets the pods of the cluster in to the ports of the list; limits of containers.")
    if any(request.component is Component.HTTP_PROXY for request in requests):
        step("Clients with NAME or NAME.NAMESPACE in http_proxy go on; NO_PROXY needs .svc as before.")
    step(f"Look: {tool} -n NAMESPACE logs deploy/NAME -c init; the gateway has a new MAC for the address.")
    step(f"The way back: {tool} delete -f new.yaml, wait, and apply what the first step has kept.")
    return "\n".join(lines) + "\n"
