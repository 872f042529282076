"""The decision on the cluster → what one node's kernel shall hold. Pure."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from hashlib import blake2b

from egress_router.egressip.api import (
    ClusterState,
    Decision,
    Disposition,
    Pod,
    Via,
    address_key,
    address_text,
    family,
    networks_of,
    pod_ranges,
)
from egress_router.egressip.node.connections import translating_nodes
from egress_router.egressip.node.marks import LAST_SLOT
from egress_router.egressip.node.state import Direct, EgressPath, Gateway, NodeState, Remote

_NOTHING: Mapping[int, str] = {}


def node_plan(
    me: str,
    state: ClusterState,
    decision: Decision,
    slots: Mapping[str, int],
    assigned: frozenset[str],
    arp_suppressed: frozenset[str] = frozenset(),
    pending: Iterable[str] = (),
    draining: Container[str] = (),
    unconfirmed: Mapping[str, Collection[str]] | None = None,
    probed: Mapping[str, int] | None = None,
) -> NodeState:
    """Return the state of node ``me``.

    ``slots``: the slot of every gateway that is not down. ``assigned``: the egress IPs that stand on this node's
    interface. An address that is decided and not there yet translates nothing, and its pods use another address or are
    dropped. ``arp_suppressed``: those of them that nothing answers for. ``pending``: addresses that the node which
    shall have them does not have yet. ``draining``: nodes that are used only where there is no other. ``unconfirmed``:
    by pod address, gateways that may still translate it to an egress IP of its former owner. ``probed``: the slots of
    all gateways, those that are down as well (None: of those in ``slots``).

    Pods with the address of a node (``hostNetwork``) are left out. An address that pods of two namespaces have is
    dropped, unless neither namespace has egress IPs.
    """
    pending = frozenset(pending)
    unconfirmed = unconfirmed or {}
    paths: dict[str, EgressPath] = {}
    translations: dict[str, str] = {}
    egress: set[str] = set()
    owners: dict[str, Pod] = {}
    duplicate_pod_ips: dict[str, tuple[str, str]] = {}
    excepted: dict[str, tuple[str, ...]] = {}
    by_family: dict[tuple[str, int], tuple[str, ...]] = {}
    mine = _own_ips(state, assigned)
    host = state.nodes.get(me)
    ranges = pod_ranges(host.subnet) if host else []
    # As canonical text without overlaps: nft refuses what overlaps, and with it everything else of that moment.
    pods = set(networks_of(ranges))
    machines = {address_text(key) for node in state.nodes.values() if (key := address_key(node.host_ip)) is not None}
    for pod in state.pods.values():
        mine_here = mine.get(pod.namespace, _NOTHING)
        if pod.node != me and not mine_here:
            continue
        verdict = decision.namespaces.get(pod.namespace)
        if not machines.isdisjoint(pod.ips):
            continue
        for ip in pod.ips:
            owner = owners.setdefault(ip, pod)
            if owner.namespace != pod.namespace:
                rivals = sorted((f"{owner.namespace}/{owner.name}", f"{pod.namespace}/{pod.name}"))
                duplicate_pod_ips[ip] = (rivals[0], rivals[1])
            if verdict is None:
                continue
            if pod.node == me and not _inside(ip, ranges):
                pods.add(ip)
            if verdict.disposition is Disposition.NORMAL:
                if pod.node == me:
                    paths[ip] = Direct.NODE_ADDRESS
                continue
            version = 6 if ":" in ip else 4
            own = mine_here.get(version)
            if own is not None:
                translations[ip] = own
            if pod.node == me:
                ways_out = [v for v in verdict.via if (":" in v.ip) == (version == 6) and v.ip not in pending]
                trusted = [v for v in ways_out if v.node not in unconfirmed.get(ip, ())]
                paths[ip] = _way(me, ip, [v for v in trusted if v.node not in draining] or trusted, own, slots)
                if verdict.excepted:
                    which = (pod.namespace, version)
                    if which not in by_family:
                        by_family[which] = tuple(net for net in verdict.excepted if (":" in net) == (version == 6))
                    if by_family[which]:
                        excepted[ip] = by_family[which]
            if pod.node == me or own is not None:
                egress.add(ip)
    duplicate_pod_ips = {ip: rivals for ip, rivals in duplicate_pod_ips.items() if ip in egress}
    served_by = translating_nodes(me, state, decision, slots, pending)
    served_by = {
        ip: nodes - {slots[node] for node in unconfirmed.get(ip, ()) if node in slots}
        for ip, nodes in served_by.items()
        if ip in paths and ip not in duplicate_pod_ips
    }
    for ip in duplicate_pod_ips:
        translations.pop(ip, None)
        excepted.pop(ip, None)
        if ip in paths:
            paths[ip] = Direct.NO_GATEWAY
    gateways = _gateways(me, state, slots)
    peers = frozenset(node.host_ip for name, node in state.nodes.items() if name != me and address_key(node.host_ip))
    return NodeState(
        paths,
        translations,
        frozenset(egress),
        assigned,
        arp_suppressed & assigned,
        frozenset(pods),
        peers,
        gateways,
        _gateways(me, state, slots if probed is None else probed),
        draining=frozenset(holder.slot for holder in gateways if holder.node in draining),
        duplicate_pod_ips=duplicate_pod_ips,
        translating_nodes=served_by,
        excepted=excepted,
    )


def _gateways(me: str, state: ClusterState, slots: Mapping[str, int]) -> tuple[Gateway, ...]:
    return tuple(
        Gateway(slot, name, state.nodes[name].host_ip)
        for name, slot in sorted(slots.items(), key=lambda item: item[1])
        if name in state.nodes and name != me
    )


def _inside(ip: str, ranges: Iterable[tuple[int, int]]) -> bool:
    key = address_key(ip)
    return key is not None and any(first <= key <= last for first, last in ranges)


def _own_ips(state: ClusterState, assigned: frozenset[str]) -> dict[str, dict[int, str]]:
    """Return, by namespace and IP version, the first of its addresses that stands on this node."""
    here = {key for text in assigned if (key := address_key(text)) is not None}
    found: dict[str, dict[int, str]] = {}
    for name, space in state.namespaces.items() if here else ():
        for text in space.egress_ips:
            key = address_key(text)
            if key in here:
                found.setdefault(name, {}).setdefault(family(key), address_text(key))
    return found


def _way(me: str, pod_ip: str, vias: list[Via], own: str | None, slots: Mapping[str, int]) -> EgressPath:
    """Return the path of a pod: this node where it has a usable address, else a gateway chosen by a stable hash."""
    if own is not None and any(via.node == me for via in vias):
        return Direct.LOCAL_GATEWAY
    others = [via for via in vias if via.node in slots and via.node != me]
    if not others:
        return Direct.NO_GATEWAY
    return Remote(slots[chosen(pod_ip, others).node])


def chosen(pod_ip: str, vias: Iterable[Via]) -> Via:
    """Return the egress IP with the highest hash of pod and address. When one goes, only its own pods move, and when it
    comes back the same ones return (rendezvous hashing, Thaler and Ravishankar 1998).
    """
    return max(vias, key=lambda via: (blake2b(f"{pod_ip} {via.ip}".encode(), digest_size=8).digest(), via.ip))


def assign_slots(gateways: Iterable[str], present: Mapping[str, int], last: int = LAST_SLOT) -> dict[str, int]:
    """Return a slot for each gateway: its present one, else the lowest free one, in the order of names. Gateways beyond
    the ``last`` slot get none; traffic for them is dropped.
    """
    wanted = sorted(set(gateways))
    result = {name: present[name] for name in wanted if present.get(name, last + 1) <= last}
    taken = set(result.values())
    slot = 1
    for name in wanted:
        if name in result:
            continue
        while slot in taken:
            slot += 1
        if slot > last:
            break
        result[name] = slot
        taken.add(slot)
    return result
