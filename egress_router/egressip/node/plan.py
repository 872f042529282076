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
    network_range,
)
from egress_router.egressip.node.connections import serving
from egress_router.egressip.node.state import LAST_SLOT, Holder, NodeState

_NOTHING: Mapping[int, str] = {}


def node_plan(
    me: str,
    state: ClusterState,
    decision: Decision,
    slots: Mapping[str, int],
    held: frozenset[str],
    quiet: frozenset[str] = frozenset(),
    lacking: Iterable[str] = (),
    draining: Container[str] = (),
    doubted: Mapping[str, Collection[str]] | None = None,
) -> NodeState:
    """Return the state of node ``me``.

    ``slots`` gives every holder its slot; ``held`` are the egress IPs that really stand on this node's interface: an
    address that is decided but not there yet translates nothing, and its pods take another way or none. ``lacking`` are
    addresses that their holder says it does not have. Nodes that are ``draining`` are used where there is no other.
    ``doubted`` are holders, by pod address, that may still translate it for whom it was before.

    Pods in a node's network are no pods here, whether their objects say so or not. An address that pods of two
    namespaces have, while one takes it over from the other say, is dropped unless neither has egress IPs.
    """
    lacking = frozenset(lacking)
    doubted = doubted or {}
    ways: dict[str, str] = {}
    translations: dict[str, str] = {}
    egress: set[str] = set()
    owners: dict[str, Pod] = {}
    contested: dict[str, tuple[str, str]] = {}
    mine = _own_ips(state, held)
    host = state.nodes.get(me)
    subnets = [part.strip() for part in host.subnet.split(",")] if host else []
    ranges = {part: span for part in subnets if (span := network_range(part)) is not None}
    pods = set(ranges)
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
                contested[ip] = (rivals[0], rivals[1])
            if verdict is None:
                continue
            if pod.node == me and not _inside(ip, ranges.values()):
                pods.add(ip)
            if verdict.disposition is Disposition.NORMAL:
                if pod.node == me:
                    ways[ip] = "normal"
                continue
            version = 6 if ":" in ip else 4
            own = mine_here.get(version)
            if own is not None:
                translations[ip] = own
            if pod.node == me:
                ways_out = [v for v in verdict.via if (":" in v.ip) == (version == 6) and v.ip not in lacking]
                trusted = [v for v in ways_out if v.node not in doubted.get(ip, ())]
                ways[ip] = _way(me, ip, [v for v in trusted if v.node not in draining] or trusted, own, slots)
            if pod.node == me or own is not None:
                egress.add(ip)
    contested = {ip: rivals for ip, rivals in contested.items() if ip in egress}
    served_by = serving(me, state, decision, slots, lacking)
    served_by = {
        ip: nodes - {slots[node] for node in doubted.get(ip, ()) if node in slots}
        for ip, nodes in served_by.items()
        if ip in ways and ip not in contested
    }
    for ip in contested:
        translations.pop(ip, None)
        if ip in ways:
            ways[ip] = "drop"
    holders = tuple(
        Holder(slot, name, state.nodes[name].host_ip)
        for name, slot in sorted(slots.items(), key=lambda item: item[1])
        if name in state.nodes and name != me
    )
    peers = frozenset(node.host_ip for name, node in state.nodes.items() if name != me and address_key(node.host_ip))
    return NodeState(
        ways,
        translations,
        frozenset(egress),
        held,
        quiet & held,
        frozenset(pods),
        peers,
        holders,
        draining=frozenset(holder.slot for holder in holders if holder.node in draining),
        contested=contested,
        serving=served_by,
    )


def _inside(ip: str, ranges: Iterable[tuple[int, int]]) -> bool:
    key = address_key(ip)
    return key is not None and any(first <= key <= last for first, last in ranges)


def _own_ips(state: ClusterState, held: frozenset[str]) -> dict[str, dict[int, str]]:
    """Return, by namespace and family, the first address that stands on this node; only namespaces that have one."""
    here = {key for text in held if (key := address_key(text)) is not None}
    found: dict[str, dict[int, str]] = {}
    for name, space in state.namespaces.items() if here else ():
        for text in space.egress_ips:
            key = address_key(text)
            if key in here:
                found.setdefault(name, {}).setdefault(family(key), address_text(key))
    return found


def _way(me: str, pod_ip: str, ways: list[Via], own: str | None, slots: Mapping[str, int]) -> str:
    """Through this node where it holds a usable address, else through a holder by a stable hash."""
    if own is not None and any(via.node == me for via in ways):
        return "own"
    others = [via for via in ways if via.node in slots and via.node != me]
    if not others:
        return "drop"
    return f"to_{slots[chosen(pod_ip, others).node]}"


def chosen(pod_ip: str, ways: Iterable[Via]) -> Via:
    """Return the way with the highest hash of pod and address: when a way goes, only its own pods move, and when it
    comes back the same ones return (rendezvous hashing, Thaler and Ravishankar 1998).
    """
    return max(ways, key=lambda via: (blake2b(f"{pod_ip} {via.ip}".encode(), digest_size=8).digest(), via.ip))


def assign_slots(holders: Iterable[str], present: Mapping[str, int]) -> dict[str, int]:
    """Give each holder a slot: the one it has, else the lowest free one, in the order of names. Holders beyond the
    last slot get none; traffic for them is dropped.
    """
    wanted = sorted(set(holders))
    result = {name: present[name] for name in wanted if name in present}
    taken = set(result.values())
    slot = 1
    for name in wanted:
        if name in result:
            continue
        while slot in taken:
            slot += 1
        if slot > LAST_SLOT:
            break
        result[name] = slot
        taken.add(slot)
    return result
