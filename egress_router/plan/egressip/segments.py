"""Which nodes may be given which address: the nodes' ranges, cut into segments with the same candidates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

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
