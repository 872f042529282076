"""Objects of the Kubernetes API → the state that everything is decided from. Pure.

An EgressIP is a group of pods. Each becomes a NetNamespace with its addresses, and every pod gets the name of its group
as ``namespace``; its real one becomes part of its name. Pods that no EgressIP selects are in the group UNSELECTED,
which has no addresses; pods whose Namespace object is not known are in the group UNKNOWN, which does not exist, so that
they are dropped. A pod that several EgressIPs select belongs to the oldest of them, then to the first by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from egress_router.egressip.api import (
    ClusterState,
    HostSubnet,
    NetNamespace,
    Pod,
    address_key,
    address_text,
    family,
    host_range,
    network_range,
)
from egress_router.egressip.source.api_objects import (
    ASSIGNABLE,
    ApiPod,
    Assignment,
    EgressIP,
    EgressIPPool,
    EgressNode,
    Labelled,
)

#: Names that no EgressIP can have: they are no DNS subdomain.
UNSELECTED, UNKNOWN = "-", "?"
#: Answers that are kept as long as no selection changes.
_MOST_REMEMBERED = 256


@dataclass(slots=True)
class ApiObjects:
    """What is known of the cluster, by uid."""

    egress_ips: Mapping[str, EgressIP] = field(default_factory=dict)
    egress_nodes: Mapping[str, EgressNode] = field(default_factory=dict)
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    namespaces: Mapping[str, Labelled] = field(default_factory=dict)
    nodes: Mapping[str, Labelled] = field(default_factory=dict)
    pods: Mapping[str, ApiPod] = field(default_factory=dict)
    pools: Mapping[str, EgressIPPool] = field(default_factory=dict)


def with_given(egress_ips: Mapping[str, EgressIP], assignments: Mapping[str, Assignment]) -> Mapping[str, EgressIP]:
    """Return the EgressIPs, those that name a pool with the addresses that were given to them. Whom an address was
    given to stands in the object that bears its name, so nobody else can have it, whoever wrote it and when.
    """
    if not any(value.pool for value in egress_ips.values()):
        return egress_ips
    given: dict[tuple[str, str], list[int]] = {}
    for entry in assignments.values():
        key = address_key(entry.egress_ip)
        if entry.given_to and key is not None:
            given.setdefault((entry.given_to, entry.pool), []).append(key)
    return {
        uid: replace(value, egress_ips=tuple(map(address_text, sorted(given.get((uid, value.pool), [])))))
        if value.pool
        else value
        for uid, value in egress_ips.items()
    }


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What an agent knows of its own node without asking: name and addresses, of which the first is the tunnel's."""

    name: str
    host_ips: tuple[str, ...]


class Grouping:
    """Which EgressIP selects which pod; remembers what did not change from one look to the next."""

    def __init__(self) -> None:
        self._seen: tuple[object, object] = (None, None)
        self._egress_ips: tuple[EgressIP, ...] = ()
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._selecting: dict[str, tuple[EgressIP, ...]] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._pods: dict[tuple[str, str], Pod] = {}
        #: The pods as they were returned last, None when they have changed.
        self._told: dict[tuple[str, str], Pod] | None = None
        self._namespaces_of: dict[frozenset[str], frozenset[str]] = {}

    def follow(
        self, objects: ApiObjects, changes: Mapping[str, ApiPod | None] | None = None
    ) -> dict[tuple[str, str], Pod]:
        """Take in the objects and return all pods, by group and name: the same mapping as the last time when they are
        the same. ``changes``: the pods that differ from the last time, None in the place of one that is gone; without
        it all are looked at.
        """
        if self._follow_selection(objects) or changes is None:
            self._keys.clear()
            self._pods.clear()
            self._told = None
            changes = objects.pods
        for uid, pod in changes.items():
            made = None if pod is None else self._pod(pod)
            key = self._keys.get(uid)
            if key is not None and self._pods[key] == made:
                continue
            self._told = None
            if key is not None and made is not None and key == (made.namespace, made.name):
                # In its place: a mapping from which nothing was deleted is copied fast.
                self._pods[key] = made
                continue
            if key is not None:
                del self._keys[uid], self._pods[key]
            if made is not None:
                key = (made.namespace, made.name)
                if key in self._pods:
                    # One name twice: the old one's end is not known yet. Both count, so that their addresses do.
                    key = (made.namespace, f"{made.name} {uid}")
                self._keys[uid] = key
                self._pods[key] = made
        if self._told is None:
            self._told = dict(self._pods)
        return self._told

    def _follow_selection(self, objects: ApiObjects) -> bool:
        """Take in EgressIPs and namespaces; return whether any pod may be in another group for that."""
        if self._seen[0] is objects.egress_ips and self._seen[1] is objects.namespaces:
            return False
        self._seen = (objects.egress_ips, objects.namespaces)
        ranked = tuple(sorted(objects.egress_ips.values(), key=lambda value: (value.created, value.name)))
        namespaces = {value.name: value.labels for value in objects.namespaces.values()}
        changed = namespaces != self._namespaces or not _same_selection(ranked, self._egress_ips)
        if changed:
            self._selecting.clear()
            self._namespaces_of.clear()
        self._egress_ips, self._namespaces = ranked, namespaces
        return changed

    def _pod(self, pod: ApiPod) -> Pod:
        return Pod(self.group(pod), f"{pod.namespace}/{pod.name}", pod.node, pod.ips)

    def group(self, pod: ApiPod) -> str:
        """Return the name of the EgressIP that the pod belongs to, UNSELECTED or UNKNOWN."""
        if pod.namespace not in self._namespaces:
            return UNKNOWN
        return next((found.name for found in self.selecting(pod)), UNSELECTED)

    def selecting(self, pod: ApiPod) -> list[EgressIP]:
        """Return every EgressIP that selects the pod; it belongs to the first."""
        of_namespace = self.selecting_namespace(pod.namespace)
        if not of_namespace:
            return []
        labels = dict(pod.labels)
        return [value for value in of_namespace if value.pod_selector.matches(labels)]

    def selecting_namespace(self, name: str) -> tuple[EgressIP, ...]:
        """Return every EgressIP that selects (pods of) a namespace, in the order in which they count."""
        if name not in self._selecting:
            labels = self._namespaces.get(name)
            self._selecting[name] = (
                ()
                if labels is None
                else tuple(value for value in self._egress_ips if value.namespace_selector.matches(labels))
            )
        return self._selecting[name]

    def namespaces_of(self, names: Collection[str]) -> frozenset[str]:
        """Return the namespaces from which these EgressIPs select pods."""
        wanted = frozenset(names)
        if wanted not in self._namespaces_of:
            # A few sets of names are asked for again and again, until the selection changes.
            if len(self._namespaces_of) > _MOST_REMEMBERED:
                self._namespaces_of.clear()
            self._namespaces_of[wanted] = frozenset(
                name
                for name in self._namespaces
                if any(value.name in wanted for value in self.selecting_namespace(name))
            )
        return self._namespaces_of[wanted]


def _same_selection(one: tuple[EgressIP, ...], other: tuple[EgressIP, ...]) -> bool:
    return [(v.name, v.namespace_selector, v.pod_selector) for v in one] == [
        (v.name, v.namespace_selector, v.pod_selector) for v in other
    ]


def cluster_state(objects: ApiObjects, pods: Mapping[tuple[str, str], Pod], me: LocalNode | None) -> ClusterState:
    """Return the state: for the agent of node ``me``, or with ``None`` for the controller, which alone knows the labels
    of nodes and so which of them may be given which address.
    """
    namespaces = {UNSELECTED: NetNamespace(UNSELECTED, 0)}
    for value in objects.egress_ips.values():
        namespaces[value.name] = NetNamespace(
            value.name, 0, value.egress_ips, value.excepted, value.pool, value.node_ip
        )
    nodes: dict[str, HostSubnet] = {}
    eligible = None if me else Eligibility(objects)
    for node in objects.egress_nodes.values():
        host_ips = me.host_ips if me is not None and node.name == me.name else node.host_ips
        if not host_ips:
            # Its agent has not said anything yet; nobody could be sent there.
            continue
        nodes[node.name] = HostSubnet(
            node.name,
            host_ips[0],
            egress_ips=node.egress_ips,
            egress_cidrs=eligible.cidrs(node) if eligible else (),
            capacity=node.capacity,
            interface_subnets=node.interface_subnets,
        )
    if me is not None and me.name not in nodes:
        nodes[me.name] = HostSubnet(me.name, me.host_ips[0])
    given: dict[str, list[str]] = {}
    for entry in sorted(objects.assignments.values(), key=lambda value: address_key(value.egress_ip) or 0):
        if entry.node:
            given.setdefault(entry.node, []).append(entry.egress_ip)
    stay = _staying(objects, nodes, eligible) if eligible else {}
    assignment = {node: tuple(ips) for node, ips in sorted(given.items())}
    standbys = {
        entry.egress_ip: entry.standby for entry in objects.assignments.values() if entry.node and entry.standby
    }
    return ClusterState(namespaces, nodes, pods, assignment, staying=stay, standbys=standbys)


def _staying(objects: ApiObjects, nodes: Mapping[str, HostSubnet], eligible: Eligibility) -> dict[str, str]:
    """Return the node of each address that is to stay there, and may."""
    marked = {
        entry.egress_ip: entry.node for entry in objects.assignments.values() if entry.stays and entry.node in nodes
    }
    if not marked:
        return {}
    own = {node.name: node for node in objects.egress_nodes.values()}
    # An address that somebody lists by hand by now is of that node.
    by_hand = {canonical(text) for node in own.values() for text in node.egress_ips}
    listing: dict[str, list[EgressIP]] = {}
    for value in objects.egress_ips.values():
        for ip in {canonical(text) for text in value.egress_ips} & marked.keys():
            listing.setdefault(ip, []).append(value)
    return {
        ip: node
        for ip, node in marked.items()
        if ip not in by_hand
        and len(listing.get(ip, [])) == 1
        and eligible.may_be_given(own[node], listing[ip][0], ip)
        and fits(ip, own[node].interface_subnets)
    }


def without_assigned(state: ClusterState, node: str, addresses: Collection[str]) -> ClusterState:
    """Return the state as if these addresses (canonical) were not given to the node yet."""
    left = tuple(ip for ip in state.assignment.get(node, ()) if ip not in addresses)
    host = state.nodes[node]
    listed = tuple(ip for ip in host.egress_ips if canonical(ip) not in addresses)
    return replace(
        state,
        assignment={**state.assignment, node: left},
        nodes={**state.nodes, node: replace(host, egress_ips=listed)},
    )


def canonical(text: str) -> str:
    """Return an address as it is printed, any other text as it is."""
    key = address_key(text)
    return text if key is None else address_text(key)


class Eligibility:
    """Which addresses a node may be given, as the networks that HostSubnet has for it."""

    def __init__(self, objects: ApiObjects) -> None:
        self._labels = {node.name: node.labels for node in objects.nodes.values()}
        self._values = sorted(objects.egress_ips.values(), key=lambda value: value.name)
        self._selective = [value for value in self._values if value.node_selector is not None]
        self._of_class: dict[tuple[bool, ...], tuple[str, ...]] = {}

    def cidrs(self, node: EgressNode) -> tuple[str, ...]:
        """Return the networks: everything for a labelled node where no EgressIP chooses its nodes, else each address.

        ``spec.egressCIDRs`` of the node counts like the label for the addresses in it.
        """
        labels = self._labels.get(node.name)
        if labels is None:
            return ()
        assignable = ASSIGNABLE in labels
        if not self._selective:
            return ("0.0.0.0/0", "::/0") if assignable else node.egress_cidrs
        chosen = tuple(bool(v.node_selector and v.node_selector.matches(labels)) for v in self._selective)
        shared = self._of_class.get((assignable, *chosen))
        if shared is None:
            names = {v.name for v, yes in zip(self._selective, chosen, strict=True) if yes}
            shared = self._of_class[(assignable, *chosen)] = tuple(
                _network(ip)
                for value in self._values
                if value.name in names or (assignable and value.node_selector is None)
                for ip in value.egress_ips
                if address_key(ip) is not None
            )
        if assignable or not node.egress_cidrs:
            return shared
        free = [ip for value in self._values if value.node_selector is None for ip in value.egress_ips]
        return shared + tuple(_network(ip) for ip in free if _inside(ip, node.egress_cidrs))

    def may_be_given(self, node: EgressNode, value: EgressIP, ip: str) -> bool:
        """Return whether the node may be given an address of this EgressIP, whatever its interface can hold."""
        labels = self._labels.get(node.name)
        if labels is None:
            return False
        if value.node_selector is not None:
            return value.node_selector.matches(labels)
        return ASSIGNABLE in labels or _inside(ip, node.egress_cidrs)


def _network(ip: str) -> str:
    key = address_key(ip)
    assert key is not None  # noqa: S101 - only addresses that a node can hold come here
    return f"{address_text(key)}/{32 if family(key) == 4 else 128}"


def _inside(ip: str, networks: Iterable[str]) -> bool:
    key = address_key(ip)
    spans = [span for text in networks if (span := network_range(text)) is not None]
    return key is not None and any(first <= key <= last for first, last in spans)


def fits(ip: str, subnets: Collection[str]) -> bool:
    """Return whether an address can stand on an interface with these subnets (none: it is not known, so it may)."""
    key = address_key(ip)
    spans = [span for text in subnets if (span := host_range(text)) is not None]
    return key is not None and (not spans or any(first <= key <= last for first, last in spans))
