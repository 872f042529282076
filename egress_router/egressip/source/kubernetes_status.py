"""What the controller says about each EgressIP: from the decision, and from what the nodes say that they hold. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from egress_router.egressip.api import Decision, address_key, family
from egress_router.egressip.source.api_objects import EgressIP, EgressIPPool, EgressNode
from egress_router.egressip.source.groups import ApiObjects, Eligibility, Grouping, canonical, fits
from egress_router.egressip.source.pools import pools_of, shown

#: Messages of conditions are cut there; the schema allows 32,768 characters.
MESSAGE = 2000
#: A message names so many pods or objects.
NAMED = 5


@dataclass(frozen=True, slots=True)
class AddressStatus:
    """``node`` holds the address and translates to it; None: nobody, for a ``reason`` (a word) and why (a sentence)."""

    ip: str
    node: str | None = None
    reason: str = ""
    why: str = ""


@dataclass(slots=True)
class Selected:
    """What the EgressIPs select, by name."""

    pods: dict[str, int] = field(default_factory=dict)
    namespaces: dict[str, int] = field(default_factory=dict)
    #: Other EgressIPs that select pods of this one, with the first such pod.
    overlaps: dict[str, dict[str, str]] = field(default_factory=dict)


def selected(grouping: Grouping, objects: ApiObjects) -> Selected:
    """Count pods and namespaces, and find pods that several EgressIPs select. ``grouping`` follows the objects."""
    found = Selected()
    for namespace in objects.namespaces.values():
        for value in grouping.selecting_namespace(namespace.name):
            found.namespaces[value.name] = found.namespaces.get(value.name, 0) + 1
    for pod in objects.pods.values():
        values = grouping.selecting(pod)
        if not values:
            continue
        found.pods[values[0].name] = found.pods.get(values[0].name, 0) + 1
        if len(values) > 1:
            for value in values:
                others = found.overlaps.setdefault(value.name, {})
                for other in values:
                    if other is not value:
                        others.setdefault(other.name, f"{pod.namespace}/{pod.name}")
    return found


class StatusMaker:
    """Makes statuses from one look at the objects and one decision."""

    def __init__(self, objects: ApiObjects, decision: Decision, pods: Selected) -> None:
        self._objects = objects
        self._decision = decision
        self._pods = pods
        self._nodes = {node.name: node for node in objects.egress_nodes.values()}
        self._eligible = Eligibility(objects)
        self.pools = pools_of(objects)
        self._usages: dict[tuple[str, int | None], tuple[int, int]] = {}
        self._listed: dict[str, set[str]] = {}
        for value in objects.egress_ips.values():
            for ip in value.egress_ips:
                self._listed.setdefault(canonical(ip), set()).add(value.name)
        self._by_node: dict[str, str] = {ip: name for name, node in decision.nodes.items() for ip in node.claims}
        self._candidates: list[EgressNode] | None = None

    def _usage(self, pool: EgressIPPool, version: int | None = None) -> tuple[int, int]:
        """Return what ``Pools.usage`` does; each EgressIP that waits asks for the same."""
        if (pool.name, version) not in self._usages:
            self._usages[pool.name, version] = self.pools.usage(pool, version)
        return self._usages[pool.name, version]

    def status(self, value: EgressIP) -> dict[str, Any]:
        """Return the status of an EgressIP, conditions without their times."""
        states = [self.address(value, ip) for ip in dict.fromkeys(map(canonical, value.egress_ips))]
        items = [self._item(state) for state in states if state.node is not None]
        conditions = [self._ready(value, states)]
        overlaps = self._pods.overlaps.get(value.name)
        conditions.append(
            _condition(value, "Overlapping", True, "SelectsSamePods", _overlap(value, overlaps, self._objects))
            if overlaps
            else _condition(value, "Overlapping", False, "None", "no pod is selected by another EgressIP")
        )
        return {
            "observedGeneration": value.generation,
            "egressIPs": list(dict.fromkeys(map(canonical, value.egress_ips))),
            "nodes": sorted({str(item["node"]) for item in items}),
            "items": items,
            "namespaces": self._pods.namespaces.get(value.name, 0),
            "pods": self._pods.pods.get(value.name, 0),
            "conditions": conditions,
        }

    def _item(self, state: AddressStatus) -> dict[str, Any]:
        standby = self._decision.standbys.get(state.ip)
        return {"egressIP": state.ip, "node": state.node, **({"standby": standby} if standby else {})}

    def _ready(self, value: EgressIP, states: list[AddressStatus]) -> dict[str, Any]:
        missing = [state for state in states if state.node is None]
        if value.pool:
            missing += self._not_given(value)
        if not missing:
            return _condition(value, "Ready", True, "AllHeld", "every address is on a node that translates to it")
        message = "; ".join(f"{state.ip}: {state.why}" for state in missing)[:MESSAGE]
        if value.node_ip:
            message += "; without a usable address pods leave with those of their nodes (whenUnavailable)"
        if any(state.node is not None for state in states):
            return _condition(value, "Ready", True, "SomeHeld", message)
        return _condition(value, "Ready", False, missing[0].reason, message)

    def _not_given(self, value: EgressIP) -> list[AddressStatus]:
        """Return why a pool has not given as many addresses as it is to give, once for each family."""
        pool = self.pools.by_name.get(value.pool)
        name = f"pool {value.pool}"
        if pool is None:
            return [AddressStatus(name, None, "NoPool", "there is no such EgressIPPool")]
        found = []
        for version in dict.fromkeys(self.pools.missing(value)):
            total, used = self._usage(pool, version)
            if used < total:
                found.append(AddressStatus(name, None, "Pending", f"gives an IPv{version} address in a moment"))
            else:
                why = f"has no free IPv{version} address; {used} of {total} are given or listed"
                found.append(AddressStatus(name, None, "PoolExhausted", why))
        if not pool.ranges:
            found.append(AddressStatus(name, None, "PoolExhausted", pool.invalid or "has no range"))
        return found

    def pool_status(self, pool: EgressIPPool) -> dict[str, Any]:
        """Return the status of a pool, conditions without their times."""
        total, used = self._usage(pool)
        full = [
            version
            for version in sorted({family(first) for first, _ in pool.ranges})
            if self._usage(pool, version)[0] <= self._usage(pool, version)[1]
        ]
        if pool.invalid or not pool.ranges:
            exhausted = (not pool.ranges, "InvalidRange", pool.invalid[:MESSAGE] or "it has no range")
        elif full:
            words = " and ".join(f"IPv{version}" for version in full)
            exhausted = (True, "NoFreeAddress", f"no {words} address is free")
        else:
            exhausted = (False, "FreeAddresses", f"{shown(total - used)} addresses are free")
        return {
            "observedGeneration": pool.generation,
            "usage": {"total": shown(total), "used": shown(used)},
            "conditions": [_condition(pool, "Exhausted", *exhausted)],
        }

    def address(self, value: EgressIP, ip: str) -> AddressStatus:
        """Return what is the matter with one address of an EgressIP."""
        if address_key(ip) is None:
            return AddressStatus(ip, None, "InvalidIP", "is not an address that a node can hold")
        rivals = sorted(self._listed[ip] - {value.name})
        if rivals:
            return AddressStatus(
                ip, None, "Conflict", f"EgressIP {', '.join(rivals[:NAMED])} lists it too; nobody gets it"
            )
        node = self._by_node.get(ip)
        if node is None:
            return self._unassigned(value, ip)
        there = self._nodes.get(node)
        if there is not None and ip in there.held_ips:
            return AddressStatus(ip, node)
        reason = (there.pending or {}).get(ip, "") if there is not None else ""
        return AddressStatus(ip, None, reason or "Pending", f"assigned to node {node}, which does not have it yet")

    def _unassigned(self, value: EgressIP, ip: str) -> AddressStatus:
        owners = sorted(node.name for node in self._nodes.values() if ip in map(canonical, node.host_ips))
        if owners:
            return AddressStatus(ip, None, "Conflict", f"it is the own address of node {', '.join(owners[:NAMED])}")
        candidates = [
            node for node in self._nodes.values() if node.host_ips and self._eligible.may_be_given(node, value, ip)
        ]
        if not candidates:
            wanted = "egressNodeSelector" if value.node_selector else "the label egress-router.io/egress-assignable"
            return AddressStatus(ip, None, "NoNode", f"no node with a running agent has {wanted}")
        fitting = [node for node in candidates if fits(ip, node.interface_subnets)]
        if not fitting:
            return AddressStatus(ip, None, "NotInSubnet", "outside the subnets of every node that may be given it")
        return AddressStatus(
            ip,
            None,
            "NoCapacity",
            "every node that may be given it is down, full, or has another address of this EgressIP",
        )


def _overlap(value: EgressIP, others: Mapping[str, str], objects: ApiObjects) -> str:
    rank = {other.name: (other.created, other.name) for other in objects.egress_ips.values()}
    words = [
        f"{name} selects pod {pod} too, which leaves with "
        f"{'that' if rank.get(name, ('', '')) < (value.created, value.name) else 'this'} one"
        for name, pod in sorted(others.items())[:NAMED]
    ]
    return "; ".join(words)[:MESSAGE]


def _condition(value: EgressIP | EgressIPPool, kind: str, true: bool, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if true else "False",
        "reason": reason,
        "message": message,
        "observedGeneration": value.generation,
    }


def keep_status(status: Mapping[str, Any]) -> str:
    """Return what is kept of an object's status, to write it only when it differs; see KubernetesSource."""
    return json.dumps(status, sort_keys=True, separators=(",", ":"))


def with_times(status: dict[str, Any], before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return the status with the time of each condition: that of before where its status is the same, else ``now``."""
    old = {entry.get("type"): entry for entry in before.get("conditions") or [] if isinstance(entry, Mapping)}
    conditions = []
    for entry in status["conditions"]:
        then = old.get(entry["type"], {})
        since = then.get("lastTransitionTime") if then.get("status") == entry["status"] else None
        conditions.append({**entry, "lastTransitionTime": since or now})
    return {**status, "conditions": conditions}


def moves(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the addresses whose node differs between two statuses: address, node before, node after ("": none)."""

    def nodes(status: Mapping[str, Any]) -> dict[str, str]:
        items: Iterable[Any] = status.get("items") or []
        return {str(i.get("egressIP")): str(i.get("node")) for i in items if isinstance(i, Mapping)}

    old, new = nodes(before), nodes(after)
    return [
        (ip, old.get(ip, ""), new.get(ip, "")) for ip in sorted(old.keys() | new.keys()) if old.get(ip) != new.get(ip)
    ]


def ready_of(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the Ready condition of a status, empty when it has none."""
    for entry in status.get("conditions") or []:
        if isinstance(entry, Mapping) and entry.get("type") == "Ready":
            return entry
    return {}
