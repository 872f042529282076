"""Who else gives egress addresses, and who has one of ours already. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from egress_router.egressip.api import address_key, address_text, network_range
from egress_router.egressip.fit.look import (
    ANTREA_EGRESSES,
    ANTREA_POOLS,
    CILIUM_POLICIES,
    CILIUM_POOLS,
    CLOUD_ADDRESSES,
    DAEMON_SETS,
    HOST_SUBNETS,
    METALLB_POOLS,
    OURS,
    OVN_EGRESS_IPS,
    SERVICES,
    SPIDERNET_GATEWAYS,
)
from egress_router.egressip.fit.nodes import own_addresses
from egress_router.egressip.fit.values import Finding, Level, Picture, entries, name_of, part, text, words
from egress_router.errors import few

CHECK = "other egress IPs"
#: Kinds of others that give egress addresses, and what they are.
_FEATURES = {
    OVN_EGRESS_IPS[0]: "EgressIP of OVN-Kubernetes",
    CILIUM_POLICIES[0]: "CiliumEgressGatewayPolicy",
    ANTREA_EGRESSES[0]: "Egress of Antrea",
    SPIDERNET_GATEWAYS[0]: "EgressGateway of spidernet",
    CLOUD_ADDRESSES[0]: "CloudPrivateIPConfig",
}
_MIGRATE = "`egress-router migrate egressip` turns them into ours; have one of both give addresses"


def findings(picture: Picture, addresses: Collection[str]) -> list[Finding]:
    """Return who gives egress addresses too, and who has one of ``addresses`` or of our EgressIPs in the cluster."""
    found = []
    for path, what in _FEATURES.items():
        if path in picture.unseen:
            found.append(Finding(Level.WARNING, CHECK, f"{what} could not be looked at ({picture.unseen[path]})"))
        elif objects := picture.of(path):
            names = few(sorted(name_of(item) for item in objects))
            found.append(Finding(Level.WARNING, CHECK, f"{len(objects)} of {what}: {names}", _MIGRATE))
    if any(words(item, "egressIPs") or words(item, "egressCIDRs") for item in picture.of(HOST_SUBNETS[0])):
        found.append(Finding(Level.WARNING, CHECK, "HostSubnets of OpenShift SDN with egress IPs", _MIGRATE))
    if any(text(item, "metadata", "name").startswith("kube-vip") for item in picture.of(DAEMON_SETS)):
        vips = [name_of(item) for item in picture.of(SERVICES) if _has_vip_egress(item)]
        if vips:
            advice = "take the annotation kube-vip.io/egress away where an EgressIP selects the same pods"
            found.append(Finding(Level.WARNING, CHECK, f"kube-vip's egress of {few(vips)}", advice))
    wanted = {_canonical(one) for one in addresses}
    wanted |= {_canonical(one) for item in picture.of(OURS[0]) for one in words(item, "spec", "egressIPs")}
    for address, owner in sorted(_claims(picture, wanted)):
        advice = "another address, or take it away there"
        found.append(Finding(Level.REFUSED, "addresses", f"{address} is claimed: {owner}", advice))
    if wanted and not any(finding.check == "addresses" for finding in found):
        found.append(Finding(Level.OK, "addresses", f"{len(wanted)}, claimed by nobody that the objects tell of"))
    return found or [Finding(Level.OK, CHECK, "none")]


def _has_vip_egress(item: object) -> bool:
    return str(part(item, "metadata", "annotations").get("kube-vip.io/egress", "")).lower() == "true"


def _canonical(address: str) -> str:
    key = address_key(address)
    return address if key is None else address_text(key)


def _claims(picture: Picture, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each of the addresses that somebody has, with who that is."""
    owners = own_addresses(picture)
    for address, node in owners.items():
        if _canonical(address) in wanted:
            yield _canonical(address), f"it is node {node}'s own"
    for item in picture.of(SERVICES):
        ingress = [text(entry, "ip") for entry in entries(item, "status", "loadBalancer", "ingress")]
        for address in {*words(item, "spec", "externalIPs"), *ingress}:
            if _canonical(address) in wanted:
                yield _canonical(address), f"Service {name_of(item)} is reached by it"
    for path, what in _FEATURES.items():
        for item in picture.of(path):
            for address in _named(path, item):
                if _canonical(address) in wanted:
                    yield _canonical(address), f"{what} {name_of(item)}"
    for item in picture.of(HOST_SUBNETS[0]):
        for address in words(item, "egressIPs"):
            if _canonical(address) in wanted:
                yield _canonical(address), f"HostSubnet {name_of(item)}"
    for path, what, fields in (
        (METALLB_POOLS[0], "IPAddressPool of MetalLB", ("addresses",)),
        (CILIUM_POOLS[0], "CiliumLoadBalancerIPPool", ("blocks",)),
        (ANTREA_POOLS[0], "ExternalIPPool of Antrea", ("ipRanges",)),
    ):
        for item in picture.of(path):
            spans = list(_spans(item, *fields))
            for address in sorted(wanted):
                key = address_key(address)
                if key is not None and any(first <= key <= last for first, last in spans):
                    yield address, f"{what} {name_of(item)} gives it"


def _named(path: str, item: object) -> list[str]:
    if path == CLOUD_ADDRESSES[0]:
        # Its name is the address, dots for colons.
        name = text(item, "metadata", "name")
        return [name, name.replace(".", ":")]
    spec = part(item, "spec")
    gateway = text(spec, "egressGateway", "egressIP")
    several = [text(entry, "egressIP") for entry in entries(spec, "egressGateways")]
    return [text(spec, "egressIP"), *words(spec, "egressIPs"), gateway, *several]


def _spans(item: object, field: str) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a pool: networks, START-END, or mappings of these."""
    texts = words(item, "spec", field)
    for entry in entries(item, "spec", field):
        cidr = text(entry, "cidr")
        first, last = text(entry, "start"), text(entry, "end") or text(entry, "stop")
        texts.append(cidr or f"{first}-{last or first}")
    for one in texts:
        whole = network_range(one.strip())
        if whole is not None:
            yield whole
            continue
        first, _, last = (word.strip() for word in one.partition("-"))
        keys = address_key(first), address_key(last)
        if keys[0] is not None and keys[1] is not None:
            yield keys[0], keys[1]
