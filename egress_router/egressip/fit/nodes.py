"""The server's version, and what Nodes tell of themselves: kernels, systems, clouds, who may hold addresses. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from egress_router.egressip.fit.look import NODES
from egress_router.egressip.fit.values import Finding, Level, Picture, entries, part, text
from egress_router.egressip.source.api_objects import ASSIGNABLE
from egress_router.errors import few

#: The schemas have functions for addresses, which came with this release.
LOWEST_KUBERNETES = (1, 31)
#: The oldest kernel that the tests were run on (docs/support-matrix.md), and the one with NAT in nftables' inet tables.
TRIED_KERNEL, LOWEST_KERNEL = (6, 1), (5, 2)
_CLOUDS = {
    "aws": "AWS",
    "gce": "Google Cloud",
    "azure": "Azure",
    "alicloud": "Alibaba Cloud",
    "openstack": "OpenStack",
    "digitalocean": "DigitalOcean",
    "hcloud": "Hetzner Cloud",
}


def server(picture: Picture) -> Finding:
    """Judge the server's version."""
    version = _release(picture.version.removeprefix("v"))
    lowest = ".".join(map(str, LOWEST_KUBERNETES))
    if version is None:
        return Finding(Level.UNKNOWN, "server", f'its version is "{picture.version}"', f"Kubernetes {lowest} or newer")
    if version < LOWEST_KUBERNETES:
        return Finding(Level.REFUSED, "server", f"Kubernetes {picture.version}", f"Kubernetes {lowest} or newer")
    return Finding(Level.OK, "server", f"Kubernetes {picture.version}")


def findings(picture: Picture) -> list[Finding]:
    """Return what is found about the nodes."""
    if NODES in picture.unseen:
        return [
            Finding(Level.UNKNOWN, "nodes", f"could not be looked at ({picture.unseen[NODES]})", "rights to list nodes")
        ]
    nodes = [item for item in picture.of(NODES) if text(item, "status", "nodeInfo", "operatingSystem") != "windows"]
    if not nodes:
        return [Finding(Level.WARNING, "nodes", "no Linux node is there")]
    found = [*_kernels(nodes), *_clouds(nodes), *_processors(nodes)]
    assignable = [text(item, "metadata", "name") for item in nodes if ASSIGNABLE in part(item, "metadata", "labels")]
    if len(assignable) > 1:
        found.append(Finding(Level.OK, "holders", few(assignable)))
    else:
        who = f"only {assignable[0]}" if assignable else "no node"
        advice = f"kubectl label node NODE NODE {ASSIGNABLE}= (two or more, or nothing takes over)"
        found.append(Finding(Level.WARNING, "holders", f"{who} has the label {ASSIGNABLE}", advice))
    return found


def _release(version: str) -> tuple[int, int] | None:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return (int(match[1]), int(match[2])) if match else None


def _kernels(nodes: Sequence[object]) -> list[Finding]:
    """Judge the kernels: by their release alone, so distributions that carry features back are not refused."""
    versions: Counter[str] = Counter(text(item, "status", "nodeInfo", "kernelVersion") for item in nodes)
    said = few([f"{version or 'unknown'} on {count}" for version, count in sorted(versions.items())])
    known = [release for version in versions if (release := _release(version)) is not None]
    if len(known) < len(versions):
        return [Finding(Level.WARNING, "kernels", said, "agents find out when they start what is missing")]
    lowest, tried = (".".join(map(str, release)) for release in (LOWEST_KERNEL, TRIED_KERNEL))
    if min(known) < LOWEST_KERNEL:
        advice = (
            f"{lowest} has NAT in nftables' inet tables; an older one works only where a distribution has carried it"
        )
        return [Finding(Level.WARNING, "kernels", said, f"{advice} back (Red Hat's 4.18 has)")]
    if min(known) < TRIED_KERNEL:
        return [Finding(Level.WARNING, "kernels", said, f"tried with {tried} and newer")]
    return [Finding(Level.OK, "kernels", said)]


def _clouds(nodes: Sequence[object]) -> list[Finding]:
    names = {text(item, "spec", "providerID").partition("://")[0] for item in nodes} & _CLOUDS.keys()
    if not names:
        return []
    advice = "another program must move addresses there; EgressIPAssignment tells it where"
    cloud = ", ".join(sorted(_CLOUDS[name] for name in names))
    return [Finding(Level.WARNING, "cloud", f"{cloud} delivers no packet to an address it was not told of", advice)]


def _processors(nodes: Sequence[object]) -> list[Finding]:
    names = sorted({text(item, "status", "nodeInfo", "architecture") for item in nodes} - {""})
    if len(names) < 2:
        return []
    return [Finding(Level.WARNING, "processors", ", ".join(names), "the image must be built for each of them")]


def own_addresses(picture: Picture) -> dict[str, str]:
    """Return the name of the node that has an address as its own."""
    return {
        text(entry, "address"): text(item, "metadata", "name")
        for item in picture.of(NODES)
        for entry in entries(item, "status", "addresses")
        if text(entry, "type") in ("InternalIP", "ExternalIP")
    }
