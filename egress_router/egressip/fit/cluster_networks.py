"""Which networks are inside the cluster, as far as its objects tell, and whether the settings name them all. Pure.

Traffic to what is inside never leaves with an egress IP: a network that the settings lack is cut off from pods that
have one, unless it happens to lie behind the nodes' gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egress_router.egressip.api import network_range, networks_of
from egress_router.egressip.fit.container_network import flannel_settings
from egress_router.egressip.fit.look import (
    CALICO_POOLS,
    NODES,
    OPENSHIFT_NETWORK,
    OUR_SETTINGS,
    SERVICE_CIDRS,
    SERVICES,
    config_map,
)
from egress_router.egressip.fit.values import Finding, Level, Picture, entries, text, words
from egress_router.errors import few

CHECK = "inside"


def inside(picture: Picture) -> list[str]:
    """Return the networks of pods, services and nodes, without those that lie in others."""
    spans = [span for network in _told(picture) if (span := network_range(network)) is not None]
    return networks_of(_outermost(spans))


def findings(picture: Picture, given: Iterable[str]) -> list[Finding]:
    """Return whether the networks that were ``given``, or those of the settings in the cluster, hold all of them."""
    there = inside(picture)
    settings = [word for word in text(config_map(picture, OUR_SETTINGS[1]), "cluster-networks").split(",") if word]
    wanted = [*given] or [word.strip() for word in settings]
    if not wanted:
        advice = f"cluster-networks: {','.join(there)}" if there else "name them in cluster-networks"
        return [Finding(Level.UNSEEN, CHECK, f"the objects tell of {few(there, 20) or 'none'}", advice)]
    known = [span for word in wanted if (span := network_range(word)) is not None]
    missing = [
        network
        for network in there
        if (span := network_range(network)) is not None
        and not any(first <= span[0] and span[1] <= last for first, last in _outermost(known))
    ]
    if missing:
        advice = f"add them to cluster-networks: {','.join([*wanted, *missing])}"
        return [
            Finding(Level.REFUSED, CHECK, f"{few(missing, 20)} are of pods, services or nodes and not named", advice)
        ]
    return [Finding(Level.OK, CHECK, f"{', '.join(wanted)} hold all that the objects tell of")]


def _told(picture: Picture) -> Iterator[str]:
    for item in picture.of(NODES):
        yield from words(item, "spec", "podCIDRs") or [text(item, "spec", "podCIDR")]
        for entry in entries(item, "status", "addresses"):
            if text(entry, "type") == "InternalIP":
                address = text(entry, "address")
                yield f"{address}/{128 if ':' in address else 32}"
    for item in picture.of(CALICO_POOLS[0]):
        yield text(item, "spec", "cidr")
    for item in picture.of(SERVICE_CIDRS[0]):
        yield from words(item, "spec", "cidrs")
    for item in picture.of(OPENSHIFT_NETWORK[0]):
        yield from words(item, "status", "serviceNetwork")
        for entry in entries(item, "status", "clusterNetwork"):
            yield text(entry, "cidr")
    flannel = flannel_settings(picture)
    yield text(flannel, "Network")
    yield text(flannel, "IPv6Network")
    if not picture.of(SERVICE_CIDRS[0]):
        # Older servers do not tell the range; the addresses that are used are in it.
        for item in picture.of(SERVICES):
            for address in words(item, "spec", "clusterIPs"):
                yield f"{address}/{128 if ':' in address else 32}"


def _outermost(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of ranges as ranges that neither overlap nor touch."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found
