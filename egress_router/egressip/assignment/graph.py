"""Which nodes may be given which address: the nodes' ranges, cut into segments with the same candidates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping

from egress_router.egressip.api import family

Range = tuple[int, int]


class Segments:
    """The address space cut at every border of a node's range: all addresses of a segment have the same
    candidate nodes, so a search looks at segments instead of addresses.
    """

    def __init__(self) -> None:
        self._ranges: dict[str, tuple[Range, ...]] = {}
        self._nodes_of: dict[Range, set[str]] = {}
        self._ready: set[str] = set()
        self._borders: list[int] = []
        self._candidates: dict[int, tuple[str, ...]] = {}

    def set_node(self, name: str, ranges: tuple[Range, ...], *, ready: bool) -> bool:
        """Replace what a node may be given; True when the cuts moved, so that ``of`` gives other answers."""
        old = self._ranges.get(name, ())
        was_ready = name in self._ready
        (self._ready.add if ready else self._ready.discard)(name)
        moved = False
        if old != ranges:
            moved = self._replace(name, old, ranges)
        if moved:
            self._borders = sorted({edge for first, last in self._nodes_of for edge in (first, last + 1)})
            self._candidates.clear()
        elif old != ranges or was_ready != ready:
            self._forget((*old, *ranges))
        return moved

    def _replace(self, name: str, old: tuple[Range, ...], new: tuple[Range, ...]) -> bool:
        moved = False
        for span in set(old) - set(new):
            self._nodes_of[span].discard(name)
            if not self._nodes_of[span]:
                del self._nodes_of[span]
                moved = True
        for span in set(new) - set(old):
            moved = moved or span not in self._nodes_of
            self._nodes_of.setdefault(span, set()).add(name)
        if new:
            self._ranges[name] = new
        else:
            self._ranges.pop(name, None)
        return moved

    def _forget(self, spans: Iterable[Range]) -> None:
        for first, last in spans:
            for segment in range(self.of(first), self.of(last) + 1):
                self._candidates.pop(segment, None)

    def of(self, key: int) -> int:
        """Return the segment of an address."""
        return bisect_right(self._borders, key)

    def candidates(self, segment: int) -> tuple[str, ...]:
        """Return the ready nodes whose ranges cover the segment, sorted."""
        known = self._candidates.get(segment)
        if known is None:
            known = self._candidates[segment] = self._compute(segment)
        return known

    def _compute(self, segment: int) -> tuple[str, ...]:
        if segment == 0:
            return ()
        at = self._borders[segment - 1]
        names: set[str] = set()
        for (first, last), nodes in self._nodes_of.items():
            if first <= at <= last:
                names |= nodes
        return tuple(sorted(names & self._ready))

    def covers(self, name: str, key: int) -> bool:
        """Return whether the node is ready and may be given the address."""
        return name in self._ready and any(first <= key <= last for first, last in self._ranges.get(name, ()))

    def ready(self) -> set[str]:
        """Return the ready nodes that have ranges."""
        return self._ready & self._ranges.keys()


#: A namespace gets at most one address of an IP version on a node: (namespace, 4 or 6, node).
Placement = tuple[str, int, str]


class AssignmentGraph:
    """Addresses that wait for a node, nodes with free capacity, and the rules between them.

    An address may sit on a node when the node is ready and has a range with it, when the node lists none of
    the namespace's addresses by hand (``block``), and when no other address of the same namespace and family
    sits there (a placement takes one). Only ``solve`` moves addresses. Its result is a function of the present
    graph and the assignment before, never of the order of the changes.
    """

    def __init__(self) -> None:
        self.segments = Segments()
        self.owner: dict[int, str] = {}
        self.node_by_address: dict[int, str] = {}
        self.addresses_by_node: dict[str, dict[int, set[int]]] = {}
        self.load: dict[str, int] = {}
        self.occupant: dict[Placement, int] = {}
        self.unassigned: set[int] = set()
        self.present: dict[int, str] = {}
        self.moved: set[int] = set()
        self._segment_of: dict[int, int] = {}
        self._placement_of: dict[int, Placement] = {}
        self._capacity: dict[str, int | None] = {}
        self._blocks: dict[Placement, int] = {}
        self._dirty_nodes: set[str] = set()
        self._dirty_keys: set[int] = set()
        self._recut = False

    def start_from(self, present: Mapping[int, str]) -> None:
        """Take a present assignment; only for a graph that was never solved."""
        self.present.update(present)
        self._dirty_nodes.update(present.values())

    def set_address(self, key: int, owner: str | None) -> None:
        """Set which namespace lists the address; None takes it out of the graph."""
        if self.owner.get(key) == owner:
            return
        self._dirty_keys.add(key)
        if owner is None:
            del self.owner[key]
        else:
            self.owner[key] = owner

    def set_node(self, name: str, ranges: tuple[Range, ...], capacity: int | None, *, ready: bool) -> None:
        """Tell what a node may be given, how many (None: any number), and whether it may be given any now."""
        self._recut |= self.segments.set_node(name, ranges, ready=ready)
        if ranges:
            self._capacity[name] = capacity
        else:
            self._capacity.pop(name, None)
        self._dirty_nodes.add(name)

    def block(self, key: int, namespace: str, node: str, step: int) -> None:
        """Count one reason more (or less) why the namespace gets no address of this family on the node."""
        placement = (namespace, family(key), node)
        count = self._blocks.get(placement, 0) + step
        if count:
            self._blocks[placement] = count
        else:
            self._blocks.pop(placement, None)
        self._dirty_nodes.add(node)

    def node_of(self, key: int) -> str | None:
        """Return the node an address was given to."""
        return self.node_by_address.get(key)

    def addresses_on(self, node: str) -> list[int]:
        """Return the addresses given to a node, unsorted."""
        return [key for keys in self.addresses_by_node.get(node, {}).values() for key in keys]

    def assignment(self) -> dict[str, list[int]]:
        """Return the sorted addresses of every node that was given one."""
        return {node: sorted(self.addresses_on(node)) for node in sorted(self.addresses_by_node) if self.load.get(node)}

    # What the steps of solving use: cheap looks at the graph, and the two moves.

    def segment(self, key: int) -> int:
        """Return the segment of an assignable address."""
        return self._segment_of[key]

    def candidates(self, key: int) -> tuple[str, ...]:
        """Return the ready nodes whose ranges hold the address, sorted."""
        return self.segments.candidates(self._segment_of[key])

    def placement(self, key: int, node: str) -> Placement:
        """Return the placement the address would take on the node."""
        return self.owner[key], family(key), node

    def blocked(self, placement: Placement) -> bool:
        """Return whether the node lists an address of this namespace and family by hand."""
        return placement in self._blocks

    def has_capacity(self, node: str) -> bool:
        """Return whether the node can take one more address."""
        capacity = self._capacity.get(node)
        return capacity is None or self.load.get(node, 0) < capacity

    def previous_node(self, key: int) -> str | None:
        """Return the node that had the address before and still could; moving there costs no move."""
        node = self.present.get(key)
        if node is None or not self.segments.covers(node, key) or self.placement(key, node) in self._blocks:
            return None
        return node

    def assign(self, key: int, node: str) -> None:
        """Put an unassigned address on a node that can take it."""
        self.node_by_address[key] = node
        self.addresses_by_node.setdefault(node, {}).setdefault(self._segment_of[key], set()).add(key)
        self.load[node] = self.load.get(node, 0) + 1
        placement = self.owner[key], family(key), node
        self.occupant[placement] = key
        self._placement_of[key] = placement
        self.unassigned.discard(key)
        self.moved.add(key)

    def unassign(self, key: int) -> None:
        """Take an assignable address off its node."""
        node = self.node_by_address.pop(key)
        bucket = self.addresses_by_node[node][self._segment_of[key]]
        bucket.discard(key)
        if not bucket:
            del self.addresses_by_node[node][self._segment_of[key]]
        self.load[node] -= 1
        del self.occupant[self._placement_of.pop(key)]
        self.unassigned.add(key)
        self.moved.add(key)

    def apply_moves(self, moves: Iterable[tuple[int, str | None]]) -> None:
        """Move several addresses at once; None takes one off."""
        steps = list(moves)
        for key, _ in steps:
            if key in self.node_by_address:
                self.unassign(key)
        for key, node in steps:
            if node is not None:
                self.assign(key, node)

    # Bringing the graph up to date before solving.

    def revalidate(self) -> bool:
        """Take in all changes: keep what may stay, lowest addresses first; False when nothing changed."""
        if not (self._dirty_keys or self._dirty_nodes or self._recut):
            return False
        nodes = self._dirty_nodes | {self.present[key] for key in self._dirty_keys if key in self.present}
        staying = self._clear(nodes)
        if self._recut:
            self._cut_again()
        for key in self._dirty_keys:
            if key in self.owner:
                self._segment_of[key] = self.segments.of(key)
                self.unassigned.add(key)
            else:
                self._segment_of.pop(key, None)
                self.unassigned.discard(key)
        for key in sorted(staying):
            node = self.previous_node(key) if key in self.owner else None
            if node is not None and self.has_capacity(node) and self.placement(key, node) not in self.occupant:
                self.assign(key, node)
            elif key in self.owner:
                self.unassigned.add(key)
            self.moved.add(key)
        self._dirty_keys.clear()
        self._dirty_nodes.clear()
        self._recut = False
        return True

    def _clear(self, nodes: set[str]) -> list[int]:
        """Empty these nodes and return the addresses that were on them at the last solving."""
        if not self.node_by_address:
            return [key for key, node in self.present.items() if node in nodes]
        before = [key for node in nodes for key in self.addresses_on(node)]
        for key in before:
            del self.node_by_address[key]
            del self.occupant[self._placement_of.pop(key)]
        for node in nodes:
            self.addresses_by_node.pop(node, None)
            self.load.pop(node, None)
        return before

    def _cut_again(self) -> None:
        of = self.segments.of
        self._segment_of = {key: of(key) for key in self.owner}
        for node, buckets in self.addresses_by_node.items():
            fresh: dict[int, set[int]] = {}
            for keys in buckets.values():
                for key in keys:
                    fresh.setdefault(self._segment_of[key], set()).add(key)
            self.addresses_by_node[node] = fresh

    def finish(self) -> dict[int, tuple[str | None, str | None]]:
        """Make the present placement the one that later changes are counted from; return each address that
        moved with the node before and after.
        """
        changed = {}
        for key in self.moved:
            before, after = self.present.get(key), self.node_by_address.get(key)
            if before == after:
                continue
            changed[key] = (before, after)
            if after is None:
                del self.present[key]
            else:
                self.present[key] = after
        self.moved.clear()
        return changed
