"""Who lists what: the objects, indexed by address, with everything that a change touches kept in dirty sets."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.egressip.api import HostSubnet, NetNamespace, address_key
from egress_router.egressip.assignment.graph import AssignmentGraph
from egress_router.egressip.assignment.node_constraints import NodeConstraints, node_constraints

_NONE: frozenset[str] = frozenset()


class Index:
    """The objects and their cross references. Every setter marks what must be evaluated again."""

    def __init__(self, *, follows: bool = False) -> None:
        #: Whether somebody else assigns, and this only follows.
        self.follows = follows
        self.namespaces: dict[str, NetNamespace] = {}
        self.keys: dict[str, tuple[int, ...]] = {}
        self.nodes: dict[str, HostSubnet] = {}
        self.constraints: dict[str, NodeConstraints] = {}
        self.offline: set[str] = set()
        self.graph = AssignmentGraph()
        self.dirty_namespaces: set[str] = set()
        self.dirty_nodes: set[str] = set()
        self._namespaces_listing: dict[int, set[str]] = {}
        self._nodes_listing: dict[int, set[str]] = {}
        self._nodes_with_host_ip: dict[int, set[str]] = {}

    def namespaces_listing(self, key: int) -> set[str] | frozenset[str]:
        """Return the namespaces that list the address."""
        return self._namespaces_listing.get(key, _NONE)

    def nodes_listing(self, key: int) -> set[str] | frozenset[str]:
        """Return the nodes that list the address by hand."""
        return self._nodes_listing.get(key, _NONE)

    def nodes_with_host_ip(self, key: int) -> set[str] | frozenset[str]:
        """Return the nodes whose own address (hostIP) it is."""
        return self._nodes_with_host_ip.get(key, _NONE)

    def eligible(self, name: str) -> bool:
        """Return whether the node can hold anything: its hostIP is an address and no other node has the same."""
        host = self.constraints[name].host
        return host is not None and len(self._nodes_with_host_ip[host]) == 1

    def set_namespace(self, name: str, new: NetNamespace | None) -> None:
        """Add, replace or (None) remove a namespace."""
        old_keys = self.keys.get(name, ())
        new_keys: tuple[int, ...] = ()
        if new is None:
            self.namespaces.pop(name, None)
            self.keys.pop(name, None)
        else:
            parsed = (address_key(text) for text in new.egress_ips)
            new_keys = tuple(dict.fromkeys(key for key in parsed if key is not None))
            self.namespaces[name] = new
            self.keys[name] = new_keys
        self.dirty_namespaces.add(name)
        if old_keys != new_keys:
            self._relist(self._namespaces_listing, name, old_keys, new_keys)

    def set_node(self, name: str, new: HostSubnet | None) -> None:
        """Add, replace or (None) remove a node."""
        old = self.constraints.get(name)
        constraints = None if new is None else node_constraints(new)
        if new is None or constraints is None:
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = new
            self.constraints[name] = constraints
        self.dirty_nodes.add(name)
        old_listed = () if old is None else old.listed
        new_listed = () if constraints is None else constraints.listed
        if old_listed != new_listed:
            self._relist(self._nodes_listing, name, old_listed, new_listed)
        if constraints is None:
            self.constraints.pop(name, None)
        self._move_host(name, None if old is None else old.host, None if constraints is None else constraints.host)
        self._refresh_node(name)

    def set_offline(self, names: Iterable[str]) -> None:
        """Replace the set of nodes that are offline; names without an object are kept for when it appears."""
        now = set(names)
        changed = now ^ self.offline
        self.offline = now
        for name in sorted(changed):
            self._refresh_node(name)

    def mark_changed(self, key: int) -> None:
        """Mark everyone whom the address concerns, and add it to the assignment graph or take it out."""
        wanted = self.namespaces_listing(key)
        listed = self.nodes_listing(key)
        self.dirty_namespaces |= wanted
        self.dirty_nodes |= listed
        automatic = len(wanted) == 1 and not listed and key not in self._nodes_with_host_ip
        self.graph.set_address(key, next(iter(wanted)) if automatic else None)

    def _relist(
        self, table: dict[int, set[str]], name: str, old_keys: tuple[int, ...], new_keys: tuple[int, ...]
    ) -> None:
        for key in set(old_keys) ^ set(new_keys):
            self._block(key, -1)
            who = table.setdefault(key, set())
            who.symmetric_difference_update((name,))
            if not who:
                del table[key]
            self._block(key, 1)
            self.mark_changed(key)

    def _block(self, key: int, step: int) -> None:
        """A namespace is not given a second IP on a node that lists one of its IPs by hand."""
        for node in self.nodes_listing(key):
            for namespace in self.namespaces_listing(key):
                self.graph.block(key, namespace, node, step)

    def _move_host(self, name: str, old: int | None, new: int | None) -> None:
        if old == new:
            return
        for key in (old, new):
            if key is None:
                continue
            who = self._nodes_with_host_ip.setdefault(key, set())
            who.symmetric_difference_update((name,))
            if not who:
                del self._nodes_with_host_ip[key]
            self.mark_changed(key)
            for other in sorted(who - {name}):
                self._refresh_node(other)

    def _refresh_node(self, name: str) -> None:
        """Mark the node and all its addresses, and tell the graph what it may be given."""
        self.dirty_nodes.add(name)
        constraints = self.constraints.get(name)
        if constraints is None:
            self.graph.set_node(name, (), None, ready=False)
            return
        for key in constraints.listed:
            self.mark_changed(key)
        ready = self.eligible(name) and name not in self.offline
        self.graph.set_node(name, constraints.ranges, constraints.capacity, ready=ready)
