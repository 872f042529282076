"""OpenShift SDN: NetNamespace, HostSubnet, and the files that this project's agents read in their place."""

from __future__ import annotations

from egress_router.egressip.api import network_range
from egress_router.egressip.source.objects import MAX_NETID
from egress_router.errors import described
from egress_router.manifests.egress_ips.fields import (
    MOST_NETWORKS,
    addresses,
    egress_address,
    holder,
    is_name,
    is_value,
    leaves_with_node_ip,
    meant,
    networks,
    usable_name,
)
from egress_router.manifests.egress_ips.values import Gathered, Group, named
from egress_router.manifests.objects import ManifestObject, as_mapping, as_text

#: An EgressNode lists at most so many addresses (deploy/egress-ips/base/crds).
MOST_BY_HAND = 256


def net_namespace(item: ManifestObject, into: Gathered) -> None:
    """A namespace with egress IPs becomes an EgressIP of its name."""
    found = addresses(item, "egressIPs", item.raw.get("egressIPs"), into)
    if not found:
        return
    if not usable_name(item, into):
        return
    if not is_value(item.name):
        into.lost(item.where, "no namespace has this name; nothing is written for it")
        return
    around = networks(item, "except", item.raw.get("except"), into)
    if around is None:
        return
    labels, annotations = meant(item, into)
    netid = item.raw.get("netid")
    if isinstance(netid, int) and not isinstance(netid, bool) and 0 <= netid <= MAX_NETID:
        into.netids[item.name] = netid
    group = Group(
        item.where, item.name, found, named(item.name), directly=around, labels=labels, annotations=annotations
    )
    group.node_ip = leaves_with_node_ip(item, "whenUnavailable", item.raw.get("whenUnavailable"), into)
    into.groups.append(group)


def host_subnet(item: ManifestObject, into: Gathered, *, recorded: bool) -> None:
    """A node with egress IPs or egressCIDRs becomes an EgressNode. With ``recorded`` the files say apart from it which
    address is assigned; else those in its egressCIDRs are, since OpenShift writes its own choice among them.
    """
    into.hosts[item.name] = (egress_address(as_text(item.raw.get("hostIP"))) or "", as_text(item.raw.get("subnet")))
    cidrs = _cidrs(item, into)
    listed = addresses(item, "egressIPs", item.raw.get("egressIPs"), into)
    if not cidrs and not listed:
        return
    node = holder(item, "metadata.name", item.name, into)
    if not node:
        return
    spans = [span for text in cidrs if (span := network_range(text)) is not None]
    part = into.node(node)
    part.egress_cidrs += cidrs
    for address in listed:
        if not recorded and any(_inside(address, span) for span in spans):
            into.present.setdefault(address, node)
        else:
            part.egress_ips.append(address)
    if len(part.egress_ips) > MOST_BY_HAND:
        into.lost(item.where, f"egressIPs has more than {MOST_BY_HAND} addresses; the first ones are written")
        del part.egress_ips[MOST_BY_HAND:]
    capacity = item.raw.get("egressIPCapacity")
    if isinstance(capacity, int) and not isinstance(capacity, bool) and capacity >= 0:
        part.capacity = capacity
    elif capacity is not None:
        into.lost(item.where, f'egressIPCapacity "{described(capacity)}" is not a number of addresses')


def _cidrs(item: ManifestObject, into: Gathered) -> list[str]:
    found = networks(item, "egressCIDRs", item.raw.get("egressCIDRs"), into) or ()
    usable = []
    for network in found:
        if egress_address(network.partition("/")[0]) is None:
            hint = "label the node egress-router.io/egress-assignable, which means every address"
            into.lost(item.where, f"egressCIDRs {network} has addresses that no node can hold ({hint})")
        else:
            usable.append(network)
    if len(usable) > MOST_NETWORKS:
        into.lost(item.where, f"egressCIDRs has more than {MOST_NETWORKS} networks; the first ones are written")
    return usable[:MOST_NETWORKS]


def _inside(address: str, span: tuple[int, int]) -> bool:
    one = network_range(f"{address}/{128 if ':' in address else 32}")
    return one is not None and span[0] <= one[0] <= span[1]


def recorded_assignment(item: ManifestObject, into: Gathered) -> None:
    """Take the present assignment that our controller has written into a state directory."""
    given = as_mapping(item.raw.get("assignment"))
    for node, listed in given.items():
        if not is_name(node):
            into.lost(item.where, f'assignment "{described(node)}" is no name of a node')
            continue
        for address in addresses(item, f"assignment {node}", listed, into):
            into.present.setdefault(address, node)


def isolates(items: list[ManifestObject]) -> bool:
    """Return whether any NetNamespace has a number, by which OpenShift SDN keeps namespaces apart."""
    return any(as_text(item.raw.get("netid")) not in ("", "0") for item in items)
