"""Groups and nodes → the objects that agents read from files (docs/egress-ips.md): NetNamespace, HostSubnet, and the
EgressIPAssignment of a state directory. Files know namespaces by name, and nothing of labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

from egress_router.egressip.api import NODE_IP, address_key
from egress_router.egressip.source.api_objects import ASSIGNABLE
from egress_router.manifests.egress_ips.values import NAMESPACE_NAME, Gathered, Group
from egress_router.manifests.egress_ips.write import holders, yaml_text

Labels = Mapping[str, str]


def written_as_files(groups: list[Group], spaces: Mapping[str, Labels], into: Gathered) -> str:
    """Return the objects as YAML documents; what files cannot say is noted as lost. ``spaces`` are the labels of the
    namespaces that the old files have, by name.
    """
    found = holders(groups, into)
    for name in into.pools:
        into.lost(f"EgressIPPool {name}", "files know no pools")
    owners = dict(_owners(groups, spaces, into))
    listed = {ip for group in owners.values() for ip in group.addresses}
    by_hand = {ip for part in into.nodes.values() for ip in part.egress_ips}
    free = (number for number in count(1) if number not in into.netids.values())
    objects = [_net_namespace(name, owners[name], found, free, into) for name in sorted(owners)]
    written = set()
    for item in _host_subnets(owners.values(), listed, found, into):
        written.add(item["metadata"]["name"])
        objects.append(item)
    given: dict[str, list[str]] = {}
    for ip, node in found.items():
        if ip in listed and ip not in by_hand and node in written:
            given.setdefault(node, []).append(ip)
    if given:
        assignment = {node: sorted(given[node], key=lambda ip: address_key(ip) or 0) for node in sorted(given)}
        objects.append(
            {"kind": "EgressIPAssignment", "metadata": {"name": "automatic"}, "assignment": assignment, "offline": []}
        )
    return yaml_text(objects)


def _owners(groups: list[Group], spaces: Mapping[str, Labels], into: Gathered) -> Iterator[tuple[str, Group]]:
    """Yield each namespace with the group whose addresses it gets."""
    taken: dict[str, Group] = {}
    for group in groups:
        if group.pods.requirements:
            into.lost(group.where, "files give addresses to whole namespaces; nothing is written for it")
            continue
        (only,) = group.namespaces.requirements if len(group.namespaces.requirements) == 1 else (None,)
        if only is not None and only.key == NAMESPACE_NAME and only.operator == "In":
            names = sorted(only.values)
        elif spaces:
            names = sorted(name for name, labels in spaces.items() if group.namespaces.matches(labels))
        else:
            into.lost(
                group.where,
                "which namespaces it selects is not in these files (add `kubectl get namespaces -o yaml`); nothing is"
                " written for it",
            )
            continue
        if len(names) != 1:
            many = f"it selects {len(names)} namespaces" if names else "it selects no namespace"
            into.lost(group.where, f"{many}, and in files an address belongs to one; nothing is written for it")
        elif names[0] in taken:
            into.lost(group.where, f"namespace {names[0]} has the addresses of {taken[names[0]].where} already")
        else:
            taken[names[0]] = group
            yield names[0], group


def _net_namespace(
    name: str, group: Group, found: Mapping[str, str], free: Iterator[int], into: Gathered
) -> dict[str, Any]:
    ways = [f"{ip} on {found[ip]}" if ip in found else f"{ip} on no node" for ip in group.addresses]
    into.same(group.where, f"NetNamespace {name}: {', '.join(ways)}")
    netid = into.netids[name] if name in into.netids else next(free)
    item: dict[str, Any] = {"kind": "NetNamespace", "metadata": {"name": name}, "netid": netid}
    item["egressIPs"] = list(group.addresses)
    if group.directly:
        item["except"] = list(group.directly)
    if group.node_ip:
        item["whenUnavailable"] = NODE_IP
    return item


def _host_subnets(
    groups: Iterable[Group], listed: set[str], found: Mapping[str, str], into: Gathered
) -> Iterator[dict[str, Any]]:
    """Yield the nodes that have, or may be given, an address."""
    allowed = _allowed(groups, into)
    for name in sorted({*into.nodes, *allowed, *(node for ip, node in found.items() if ip in listed)}):
        part = into.nodes.get(name)
        machine = into.machines.get(name)
        host_ip, subnet = into.hosts.get(name, ("", ""))
        host_ip = host_ip or (machine.host_ip if machine is not None else "")
        if not host_ip:
            advice = "add the output of `kubectl get nodes -o yaml`"
            into.lost(f"node {name}", f"its address is not in these files ({advice}); nothing is written for it")
            continue
        item: dict[str, Any] = {"kind": "HostSubnet", "metadata": {"name": name}, "hostIP": host_ip}
        if subnet:
            item["subnet"] = subnet
        if part is not None and part.egress_ips:
            item["egressIPs"] = list(dict.fromkeys(part.egress_ips))
        mine = [ip for ip, node in found.items() if node == name and ip in listed]
        if part is not None and part.egress_ips:
            mine = [ip for ip in mine if ip not in part.egress_ips]
        cidrs = dict.fromkeys([*(part.egress_cidrs if part is not None else ()), *allowed.get(name, ())])
        networks = [*cidrs, *(one for ip in mine if not cidrs and (one := _single(ip)))]
        if networks:
            item["egressCIDRs"] = networks
        if part is not None and part.capacity is not None:
            item["egressIPCapacity"] = part.capacity
        yield item


def _allowed(groups: Iterable[Group], into: Gathered) -> dict[str, list[str]]:
    """Return the addresses that each node may be given by its labels, as networks."""
    allowed: dict[str, list[str]] = {}
    for group in groups:
        for machine in into.machines.values():
            chosen = group.nodes.matches(machine.labels) if group.nodes is not None else ASSIGNABLE in machine.labels
            if chosen:
                allowed.setdefault(machine.name, []).extend(map(_single, group.addresses))
    return allowed


def _single(ip: str) -> str:
    return f"{ip}/{128 if ':' in ip else 32}"
