"""The decision on the cluster → what one node's kernel shall hold. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from egress_router.egressip.api import (
    ClusterState,
    Decision,
    Disposition,
    HostSubnet,
    NamespaceDecision,
    NetNamespace,
    Pod,
    Via,
    address_key,
    address_text,
    family,
    networks_of,
    pod_ranges,
)
from egress_router.egressip.node.connections import Translators
from egress_router.egressip.node.marks import LAST_SLOT
from egress_router.egressip.node.state import Direct, EgressPath, Gateway, NodeState, Remote

_NOTHING: Mapping[int, str] = {}
_EVERYTHING = {4: ("0.0.0.0/0",), 6: ("::/0",)}
_Pods = Mapping[tuple[str, str], Pod]


def node_plan(
    me: str,
    state: ClusterState,
    decision: Decision,
    slots: Mapping[str, int],
    assigned: frozenset[str],
    arp_suppressed: frozenset[str] = frozenset(),
    pending: Iterable[str] = (),
    draining: Iterable[str] = (),
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
    inputs = PlanInputs(
        me,
        state.namespaces,
        state.nodes,
        decision,
        dict(slots),
        assigned,
        frozenset(pending),
        frozenset(draining),
        {ip: frozenset(nodes) for ip, nodes in (unconfirmed or {}).items()},
    )
    return Planner().plan(inputs, state.pods, arp_suppressed, slots if probed is None else probed)


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """All that the plan of every pod depends on, see ``node_plan``; nobody changes it afterwards."""

    me: str
    namespaces: Mapping[str, NetNamespace]
    nodes: Mapping[str, HostSubnet]
    decision: Decision
    slots: Mapping[str, int]
    assigned: frozenset[str]
    pending: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    unconfirmed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Whether it is known who is up: before that, nobody leaves with the node's address for want of an egress IP.
    settled: bool = True
    #: Nodes that are new among those that are asked: so long as they may be up, nobody leaves so for want of theirs.
    unheard: frozenset[str] = frozenset()
    #: Nodes that are up and whose agents have said nothing for long: nobody waits until they confirm anything.
    silent: frozenset[str] = frozenset()
    #: Egress IPs that were on this node's interface until a moment ago, and are translated to a moment longer.
    lingering: frozenset[str] = frozenset()


class Planner:
    """Plans as ``node_plan`` does, and remembers: when only pods have changed, it looks at their addresses alone."""

    def __init__(self) -> None:
        self._here: _Here | None = None
        self._pods: _Pods = {}
        self._by_ip: dict[str, tuple[Pod, ...]] = {}
        self._planned = _Planned()

    def plan(
        self, inputs: PlanInputs, pods: _Pods, arp_suppressed: frozenset[str], probed: Mapping[str, int]
    ) -> NodeState:
        """Return the state of the node; ``arp_suppressed`` and ``probed`` see ``node_plan``."""
        touched: Iterable[str] = self._follow(pods)
        if self._here is None or self._here.inputs != inputs:
            self._here = _Here(inputs)
            self._planned = _Planned()
            touched = self._by_ip
        for ip in touched:
            self._planned.put(ip, self._here.judge(ip, self._by_ip.get(ip, ())))
        return self._here.state(self._planned, arp_suppressed, probed)

    def _follow(self, pods: _Pods) -> set[str]:
        """Take in the pods; return the addresses that any that changed has or had."""
        before, touched = self._pods, set[str]()
        # In the order in which they stand where there are many, as at the start: it is that of an address's pods.
        keys = pods if not before else sorted({key for key, _ in before.items() ^ pods.items()})
        for key in keys:
            if (old := before.get(key)) is not None:
                self._forget(old, touched)
            if (pod := pods.get(key)) is not None:
                for ip in pod.ips:
                    self._by_ip[ip] = (*self._by_ip.get(ip, ()), pod)
                touched.update(pod.ips)
        self._pods = pods
        return touched

    def _forget(self, pod: Pod, touched: set[str]) -> None:
        touched.update(pod.ips)
        for ip in pod.ips:
            left = list(self._by_ip[ip])
            left.remove(pod)
            if left:
                self._by_ip[ip] = tuple(left)
            else:
                del self._by_ip[ip]


class _Address(NamedTuple):
    """What becomes of one address; None where it has no such thing. ``is_pod``: a pod of this node outside of its
    ranges; ``egress``: it must never leave with another address than its egress IP.
    """

    path: EgressPath | None = None
    translation: str | None = None
    is_pod: bool = False
    egress: bool = False
    rivals: tuple[str, str] | None = None
    translating: frozenset[int] | None = None
    excepted: tuple[str, ...] = ()


_NO_ADDRESS = _Address()


class _Planned:
    """What becomes of all addresses, as NodeState has it."""

    def __init__(self) -> None:
        self.paths: dict[str, EgressPath] = {}
        self.translations: dict[str, str] = {}
        self.pods: set[str] = set()
        self.egress: set[str] = set()
        self.duplicates: dict[str, tuple[str, str]] = {}
        self.translating: dict[str, frozenset[int]] = {}
        self.excepted: dict[str, tuple[str, ...]] = {}

    def put(self, ip: str, address: _Address) -> None:
        """Take in what becomes of an address, in place of what was known of it."""
        _set(self.paths, ip, address.path)
        _set(self.translations, ip, address.translation)
        _set(self.duplicates, ip, address.rivals)
        _set(self.translating, ip, address.translating)
        _set(self.excepted, ip, address.excepted or None)
        (self.pods.add if address.is_pod else self.pods.discard)(ip)
        (self.egress.add if address.egress else self.egress.discard)(ip)


_T = TypeVar("_T")


def _set(mapping: dict[str, _T], ip: str, value: _T | None) -> None:
    if value is None:
        mapping.pop(ip, None)
    else:
        mapping[ip] = value


class _Here:
    """What is the same for all pods, worked out once."""

    def __init__(self, inputs: PlanInputs) -> None:
        self.inputs = inputs
        self._mine = _own_ips(inputs.namespaces, inputs.assigned)
        for namespace, given in _own_ips(inputs.namespaces, inputs.lingering).items():
            self._mine[namespace] = given | self._mine.get(namespace, {})
        host = inputs.nodes.get(inputs.me)
        self._ranges = pod_ranges(host.subnet) if host else []
        keys = (address_key(node.host_ip) for node in inputs.nodes.values())
        self._machines = {address_text(key) for key in keys if key is not None}
        self._translators = Translators(inputs.namespaces, inputs.decision, inputs.slots, inputs.pending)
        self._excepted: dict[tuple[str, int], tuple[str, ...]] = {}
        held = (inputs.decision.nodes[name].claims for name in inputs.unheard if name in inputs.decision.nodes)
        self._unheard = {ip for claims in held for ip in claims}

    def judge(self, ip: str, pods: Iterable[Pod]) -> _Address:
        """Return what becomes of an address that these pods have."""
        me, decision = self.inputs.me, self.inputs.decision
        counting = [
            pod
            for pod in pods
            if (pod.node == me or pod.namespace in self._mine) and self._machines.isdisjoint(pod.ips)
        ]
        found = _NO_ADDRESS
        for pod in counting:
            verdict = decision.namespaces.get(pod.namespace)
            if verdict is None:
                continue
            found = self._of_pod(ip, pod, verdict, found)
        if found.egress and (rivals := _rivals(counting)):
            # Nobody can tell which of them has sent a packet.
            path = None if found.path is None else Direct.NO_GATEWAY
            return _Address(path, is_pod=found.is_pod, egress=True, rivals=rivals)
        return found

    def _of_pod(self, ip: str, pod: Pod, verdict: NamespaceDecision, found: _Address) -> _Address:
        """Return what becomes of the address of a pod; ``found`` is what another with it brings."""
        is_here = pod.node == self.inputs.me
        if is_here and not _inside(ip, self._ranges):
            found = found._replace(is_pod=True)
        if verdict.disposition is Disposition.NORMAL:
            return found._replace(path=Direct.NODE_ADDRESS) if is_here else found
        version = 6 if ":" in ip else 4
        own = self._mine.get(pod.namespace, _NOTHING).get(version)
        if own is not None:
            found = found._replace(translation=own, egress=True)
        if not is_here:
            return found
        path = self._path(ip, verdict, version, own)
        excepted = self._excepted_by(pod.namespace, verdict, version)
        no_other = path is Direct.NO_GATEWAY and verdict.node_ip and self._is_known(pod.namespace, version)
        if no_other and not self._will_have_way(ip, verdict, version):
            # Every destination is one that is reached directly, as long as there is no other way.
            excepted = _EVERYTHING[version]
        translating = self._translating(ip, pod.namespace, version)
        return found._replace(path=path, egress=True, translating=translating, excepted=excepted)

    def _path(self, ip: str, verdict: NamespaceDecision, version: int, own: str | None) -> EgressPath:
        inputs = self.inputs
        doubted = inputs.unconfirmed.get(ip, ())
        trusted = [v for v in self._ways_out(verdict, version) if v.node not in doubted]
        preferred = [v for v in trusted if v.node not in inputs.draining] or trusted
        return _way(inputs.me, ip, preferred, own, inputs.slots)

    def _ways_out(self, verdict: NamespaceDecision, version: int) -> list[Via]:
        return [v for v in verdict.via if (":" in v.ip) == (version == 6) and v.ip not in self.inputs.pending]

    def _will_have_way(self, ip: str, verdict: NamespaceDecision, version: int) -> bool:
        """Return whether a gateway that is up has only to confirm that it knows whose the address is now: an egress IP
        is usable then, and the pod waits for it, unless the agent there says nothing.
        """
        inputs = self.inputs
        doubted = inputs.unconfirmed.get(ip, frozenset()) - inputs.silent
        return any(v.node in doubted and v.node in inputs.slots for v in self._ways_out(verdict, version))

    def _translating(self, ip: str, namespace: str, version: int) -> frozenset[int] | None:
        found = self._translators.of(namespace, version)
        doubted = self.inputs.unconfirmed.get(ip, ())
        if found is None or not doubted:
            return found
        return found - {self.inputs.slots[node] for node in doubted if node in self.inputs.slots}

    def _is_known(self, namespace: str, version: int) -> bool:
        """Return whether it is known that no address of a namespace can be used."""
        if not self.inputs.settled:
            return False
        if not self._unheard:
            return True
        keys = map(address_key, self.inputs.namespaces[namespace].egress_ips)
        return self._unheard.isdisjoint(address_text(key) for key in keys if key and family(key) == version)

    def _excepted_by(self, namespace: str, verdict: NamespaceDecision, version: int) -> tuple[str, ...]:
        if not verdict.excepted:
            return ()
        key = (namespace, version)
        if key not in self._excepted:
            self._excepted[key] = tuple(net for net in verdict.excepted if (":" in net) == (version == 6))
        return self._excepted[key]

    def state(self, planned: _Planned, arp_suppressed: frozenset[str], probed: Mapping[str, int]) -> NodeState:
        """Return all of it; what is planned later does not change it."""
        inputs = self.inputs
        gateways = _gateways(inputs.me, inputs.nodes, inputs.slots)
        others = [node.host_ip for name, node in inputs.nodes.items() if name != inputs.me]
        return NodeState(
            dict(planned.paths),
            dict(planned.translations),
            frozenset(planned.egress),
            inputs.assigned,
            arp_suppressed & inputs.assigned,
            # As canonical text without overlaps: nft refuses what overlaps, and with it everything else of that moment.
            frozenset(networks_of(self._ranges)) | planned.pods,
            frozenset(text for text in others if address_key(text)),
            gateways,
            _gateways(inputs.me, inputs.nodes, probed),
            draining=frozenset(gateway.slot for gateway in gateways if gateway.node in inputs.draining),
            duplicate_pod_ips=dict(planned.duplicates),
            translating_nodes=dict(planned.translating),
            excepted=dict(planned.excepted),
            lingering=inputs.lingering,
        )


def _rivals(pods: Iterable[Pod]) -> tuple[str, str] | None:
    """Return two pods of different namespaces, NAMESPACE/NAME, the first by name; None when there are none."""
    named = sorted((f"{pod.namespace}/{pod.name}", pod.namespace) for pod in pods)
    other = next((name for name, namespace in named if namespace != named[0][1]), None)
    return None if other is None else (named[0][0], other)


def _gateways(me: str, nodes: Mapping[str, HostSubnet], slots: Mapping[str, int]) -> tuple[Gateway, ...]:
    return tuple(
        Gateway(slot, name, nodes[name].host_ip)
        for name, slot in sorted(slots.items(), key=lambda item: item[1])
        if name in nodes and name != me
    )


def _inside(ip: str, ranges: Iterable[tuple[int, int]]) -> bool:
    key = address_key(ip)
    return key is not None and any(first <= key <= last for first, last in ranges)


def _own_ips(namespaces: Mapping[str, NetNamespace], assigned: frozenset[str]) -> dict[str, dict[int, str]]:
    """Return, by namespace and IP version, the first of its addresses that stands on this node."""
    here = {key for text in assigned if (key := address_key(text)) is not None}
    found: dict[str, dict[int, str]] = {}
    for name, space in namespaces.items() if here else ():
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


def kept_by(decision: Decision, nodes: Mapping[str, str], namespaces: Collection[str]) -> Decision:
    """Return the decision with these addresses (by address, a node) still used at their former holders; ``namespaces``
    are those that list any of them.
    """
    found = {}
    for name in namespaces:
        verdict = decision.namespaces.get(name)
        if verdict is not None:
            via = tuple(Via(one.ip, nodes.get(one.ip, one.node)) for one in verdict.via)
            found[name] = replace(verdict, via=via)
    return replace(decision, namespaces={**decision.namespaces, **found})


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
