"""Who lists what: the objects, indexed by address, with everything that a change touches kept in dirty sets."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.egressip.api import HostSubnet, NetNamespace, address_key
from egress_router.egressip.assignment.graph import Pool
from egress_router.egressip.assignment.node_facts import NodeFacts, node_facts

_NONE: frozenset[str] = frozenset()


class Index:
    """The objects and their cross references. Every setter marks what must be judged again."""

    def __init__(self, *, follows: bool = False) -> None:
        #: Whether somebody else assigns, and this only follows.
        self.follows = follows
        self.namespaces: dict[str, NetNamespace] = {}
        self.keys: dict[str, tuple[int, ...]] = {}
        self.nodes: dict[str, HostSubnet] = {}
        self.facts: dict[str, NodeFacts] = {}
        self.offline: set[str] = set()
        self.pool = Pool()
        self.dirty_namespaces: set[str] = set()
        self.dirty_nodes: set[str] = set()
        self._wanted_by: dict[int, set[str]] = {}
        self._listed_by: dict[int, set[str]] = {}
        self._own_of: dict[int, set[str]] = {}

    def wanted_by(self, key: int) -> set[str] | frozenset[str]:
        """Return the namespaces that list the address."""
        return self._wanted_by.get(key, _NONE)

    def listed_by(self, key: int) -> set[str] | frozenset[str]:
        """Return the nodes that list the address by hand."""
        return self._listed_by.get(key, _NONE)

    def own_of(self, key: int) -> set[str] | frozenset[str]:
        """Return the nodes whose own address (hostIP) it is."""
        return self._own_of.get(key, _NONE)

    def sound(self, name: str) -> bool:
        """Tell whether the node can hold anything: its hostIP is an address and no other node has the same."""
        host = self.facts[name].host
        return host is not None and len(self._own_of[host]) == 1

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
            self._relist(self._wanted_by, name, old_keys, new_keys)

    def set_node(self, name: str, new: HostSubnet | None) -> None:
        """Add, replace or (None) remove a node."""
        old = self.facts.get(name)
        facts = None if new is None else node_facts(new)
        if new is None or facts is None:
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = new
            self.facts[name] = facts
        self.dirty_nodes.add(name)
        old_listed = () if old is None else old.listed
        new_listed = () if facts is None else facts.listed
        if old_listed != new_listed:
            self._relist(self._listed_by, name, old_listed, new_listed)
        if facts is None:
            self.facts.pop(name, None)
        self._move_host(name, None if old is None else old.host, None if facts is None else facts.host)
        self._refresh_node(name)

    def set_offline(self, names: Iterable[str]) -> None:
        """Replace the set of nodes that are offline; names without an object are kept for when it appears."""
        now = set(names)
        changed = now ^ self.offline
        self.offline = now
        for name in sorted(changed):
            self._refresh_node(name)

    def touch(self, key: int) -> None:
        """Mark everyone whom the address concerns, and give it to the pool or take it away."""
        wanted = self.wanted_by(key)
        listed = self.listed_by(key)
        self.dirty_namespaces |= wanted
        self.dirty_nodes |= listed
        automatic = len(wanted) == 1 and not listed and key not in self._own_of
        self.pool.set_address(key, next(iter(wanted)) if automatic else None)

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
            self.touch(key)

    def _block(self, key: int, step: int) -> None:
        """A namespace is not given a second IP on a node that lists one of its IPs by hand."""
        for node in self.listed_by(key):
            for namespace in self.wanted_by(key):
                self.pool.block(key, namespace, node, step)

    def _move_host(self, name: str, old: int | None, new: int | None) -> None:
        if old == new:
            return
        for key in (old, new):
            if key is None:
                continue
            who = self._own_of.setdefault(key, set())
            who.symmetric_difference_update((name,))
            if not who:
                del self._own_of[key]
            self.touch(key)
            for other in sorted(who - {name}):
                self._refresh_node(other)

    def _refresh_node(self, name: str) -> None:
        """Mark the node and all its addresses, and tell the pool what it may be given."""
        self.dirty_nodes.add(name)
        facts = self.facts.get(name)
        if facts is None:
            self.pool.set_node(name, (), None, ready=False)
            return
        for key in facts.listed:
            self.touch(key)
        ready = self.sound(name) and name not in self.offline
        self.pool.set_node(name, facts.ranges, facts.room, ready=ready)
