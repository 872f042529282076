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
        """Tell whether the node is ready and may be given the address."""
        return name in self._ready and any(first <= key <= last for first, last in self._ranges.get(name, ()))

    def ready(self) -> set[str]:
        """Return the ready nodes that have ranges."""
        return self._ready & self._ranges.keys()


# The automatic assignment: its graph, where every address sits, and what changed since it was last settled.

Slot = tuple[str, int, str]


class Pool:
    """Addresses that wait for a node, nodes with room, and the rules between them.

    An address may sit on a node when the node is ready and has a range with it, when the node lists none of
    the namespace's addresses by hand (``block``), and when no other address of the same namespace and family
    sits there (a slot holds one). Only ``settle`` moves addresses. Its result is a function of the present
    graph and the assignment before, never of the order of the changes.
    """

    def __init__(self) -> None:
        self.segments = Segments()
        self.owner: dict[int, str] = {}
        self.at: dict[int, str] = {}
        self.on: dict[str, dict[int, set[int]]] = {}
        self.load: dict[str, int] = {}
        self.occupant: dict[Slot, int] = {}
        self.unplaced: set[int] = set()
        self.present: dict[int, str] = {}
        self.moved: set[int] = set()
        self._segment_of: dict[int, int] = {}
        self._slot_of: dict[int, Slot] = {}
        self._room: dict[str, int | None] = {}
        self._blocks: dict[Slot, int] = {}
        self._dirty_nodes: set[str] = set()
        self._dirty_keys: set[int] = set()
        self._recut = False

    def start_from(self, present: Mapping[int, str]) -> None:
        """Take a present assignment; only for a pool that was never settled."""
        self.present.update(present)
        self._dirty_nodes.update(present.values())

    def set_address(self, key: int, owner: str | None) -> None:
        """Tell which namespace wants the address; None takes it out of the pool."""
        if self.owner.get(key) == owner:
            return
        self._dirty_keys.add(key)
        if owner is None:
            del self.owner[key]
        else:
            self.owner[key] = owner

    def set_node(self, name: str, ranges: tuple[Range, ...], room: int | None, *, ready: bool) -> None:
        """Tell what a node may be given, how many (None: any number), and whether it may be given any now."""
        self._recut |= self.segments.set_node(name, ranges, ready=ready)
        if ranges:
            self._room[name] = room
        else:
            self._room.pop(name, None)
        self._dirty_nodes.add(name)

    def block(self, key: int, namespace: str, node: str, step: int) -> None:
        """Count one reason more (or less) why the namespace gets no address of this family on the node."""
        slot = (namespace, family(key), node)
        count = self._blocks.get(slot, 0) + step
        if count:
            self._blocks[slot] = count
        else:
            self._blocks.pop(slot, None)
        self._dirty_nodes.add(node)

    def node_of(self, key: int) -> str | None:
        """Return the node an address was given to."""
        return self.at.get(key)

    def addresses_on(self, node: str) -> list[int]:
        """Return the addresses given to a node, unsorted."""
        return [key for keys in self.on.get(node, {}).values() for key in keys]

    def assignment(self) -> dict[str, list[int]]:
        """Return the sorted addresses of every node that was given one."""
        return {node: sorted(self.addresses_on(node)) for node in sorted(self.on) if self.load.get(node)}

    # What the steps of settling use: cheap looks at the graph, and the two moves.

    def segment(self, key: int) -> int:
        """Return the segment of a pooled address."""
        return self._segment_of[key]

    def candidates(self, key: int) -> tuple[str, ...]:
        """Return the ready nodes whose ranges hold the address, sorted."""
        return self.segments.candidates(self._segment_of[key])

    def slot(self, key: int, node: str) -> Slot:
        """Return the slot the address would take on the node."""
        return self.owner[key], family(key), node

    def blocked(self, slot: Slot) -> bool:
        """Tell whether the node lists an address of this namespace and family by hand."""
        return slot in self._blocks

    def spare(self, node: str) -> bool:
        """Tell whether the node has room for one more."""
        room = self._room.get(node)
        return room is None or self.load.get(node, 0) < room

    def home(self, key: int) -> str | None:
        """Return the node that had the address before and still could; moving there costs no move."""
        node = self.present.get(key)
        if node is None or not self.segments.covers(node, key) or self.slot(key, node) in self._blocks:
            return None
        return node

    def place(self, key: int, node: str) -> None:
        """Put an unplaced address on a node that can take it."""
        self.at[key] = node
        self.on.setdefault(node, {}).setdefault(self._segment_of[key], set()).add(key)
        self.load[node] = self.load.get(node, 0) + 1
        slot = self.owner[key], family(key), node
        self.occupant[slot] = key
        self._slot_of[key] = slot
        self.unplaced.discard(key)
        self.moved.add(key)

    def unplace(self, key: int) -> None:
        """Take a pooled address off its node."""
        node = self.at.pop(key)
        bucket = self.on[node][self._segment_of[key]]
        bucket.discard(key)
        if not bucket:
            del self.on[node][self._segment_of[key]]
        self.load[node] -= 1
        del self.occupant[self._slot_of.pop(key)]
        self.unplaced.add(key)
        self.moved.add(key)

    def shift(self, moves: Iterable[tuple[int, str | None]]) -> None:
        """Move several addresses at once; None takes one off."""
        steps = list(moves)
        for key, _ in steps:
            if key in self.at:
                self.unplace(key)
        for key, node in steps:
            if node is not None:
                self.place(key, node)

    # Bringing the graph up to date before settling.

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
                self.unplaced.add(key)
            else:
                self._segment_of.pop(key, None)
                self.unplaced.discard(key)
        for key in sorted(staying):
            node = self.home(key) if key in self.owner else None
            if node is not None and self.spare(node) and self.slot(key, node) not in self.occupant:
                self.place(key, node)
            elif key in self.owner:
                self.unplaced.add(key)
            self.moved.add(key)
        self._dirty_keys.clear()
        self._dirty_nodes.clear()
        self._recut = False
        return True

    def _clear(self, nodes: set[str]) -> list[int]:
        """Empty these nodes and return the addresses that were on them at the last settling."""
        if not self.at:
            return [key for key, node in self.present.items() if node in nodes]
        before = [key for node in nodes for key in self.addresses_on(node)]
        for key in before:
            del self.at[key]
            del self.occupant[self._slot_of.pop(key)]
        for node in nodes:
            self.on.pop(node, None)
            self.load.pop(node, None)
        return before

    def _cut_again(self) -> None:
        of = self.segments.of
        self._segment_of = {key: of(key) for key in self.owner}
        for node, buckets in self.on.items():
            fresh: dict[int, set[int]] = {}
            for keys in buckets.values():
                for key in keys:
                    fresh.setdefault(self._segment_of[key], set()).add(key)
            self.on[node] = fresh

    def finish(self) -> dict[int, tuple[str | None, str | None]]:
        """Make the present placement the one that later changes are counted from; return each address that
        moved with the node before and after.
        """
        changed = {}
        for key in self.moved:
            before, after = self.present.get(key), self.at.get(key)
            if before == after:
                continue
            changed[key] = (before, after)
            if after is None:
                del self.present[key]
            else:
                self.present[key] = after
        self.moved.clear()
        return changed
