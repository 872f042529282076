"""Which nodes can be reached by moving addresses one after another: breadth-first search in the residual graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from egress_router.plan.egressip.pool import Pool


class Frontier:
    """A search that can be continued from further roots and never visits anything twice.

    Vertices are addresses in the hand (taken off where they sit, or not placed yet) and nodes that are about to
    take one more. An address in the hand enters a candidate node, or pushes out the address of the same
    namespace that sits there; a node that was entered can give away any of its addresses. Nodes that a
    segment's addresses have all reached are not looked at again, so a search costs as much as there are nodes
    and addresses, not their product.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._entered_by: dict[str, int | None] = {}
        self._taken_from: dict[int, tuple[str | None, int | None]] = {}
        self._left: dict[int, list[str]] = {}

    def visited(self, node: str) -> bool:
        """Tell whether a search has reached the node."""
        return node in self._entered_by

    def exhausted(self, segment: int) -> bool:
        """Tell whether addresses of the segment have reached every candidate node: another one finds nothing new."""
        left = self._left.get(segment)
        return left is not None and not left

    def from_address(self, key: int, accept: Callable[[str], bool]) -> str | None:
        """Search from an unplaced address; return the first accepted node that can be reached."""
        self._taken_from[key] = (None, None)
        return self._run(deque([key]), accept)

    def from_node(self, node: str, accept: Callable[[str], bool]) -> str | None:
        """Search from a node that shall give one address away."""
        self._entered_by[node] = None
        queue: deque[int | str] = deque()
        found = self._leave(node, queue, accept)
        return found if found is not None else self._run(queue, accept)

    def moves_to(self, node: str) -> list[tuple[int, str | None]]:
        """Return the moves that bring one more address to the node that a search has found."""
        moves: list[tuple[int, str | None]] = []
        key = self._entered_by[node]
        target: str | None = node
        while key is not None:
            moves.append((key, target))
            giver, pusher = self._taken_from[key]
            if pusher is not None:
                target = self._pool.at[key]
                key = pusher
            elif giver is not None:
                target = giver
                key = self._entered_by[giver]
            else:
                key = None
        return moves

    def _run(self, queue: deque[int | str], accept: Callable[[str], bool]) -> str | None:
        while queue:
            vertex = queue.popleft()
            found = (
                self._leave(vertex, queue, accept) if isinstance(vertex, str) else self._enter(vertex, queue, accept)
            )
            if found is not None:
                return found
        return None

    def _leave(self, node: str, queue: deque[int | str], accept: Callable[[str], bool]) -> str | None:
        """Take addresses off the node, those that are not at home first."""
        pool = self._pool
        buckets = pool.on.get(node, {})
        for segment in sorted(buckets):
            left = self._left.get(segment)
            if left is not None and not left:
                continue
            for key in sorted(buckets[segment], key=lambda key: (pool.home(key) == node, key)):
                if key in self._taken_from:
                    continue
                self._taken_from[key] = (node, None)
                found = self._enter(key, queue, accept)
                if found is not None:
                    return found
                if not self._left[segment]:
                    break
        return None

    def _enter(self, key: int, queue: deque[int | str], accept: Callable[[str], bool]) -> str | None:
        """Bring an address in the hand to every candidate node that was not reached yet."""
        pool = self._pool
        segment = pool.segment(key)
        left = self._left.get(segment)
        if left is None:
            left = list(pool.candidates(key))
        stay: list[str] = []
        self._left[segment] = stay
        sits_on = pool.at.get(key)
        for at, node in enumerate(left):
            if node in self._entered_by:
                continue
            slot = pool.slot(key, node)
            if node == sits_on or pool.blocked(slot):
                stay.append(node)
                continue
            sibling = pool.occupant.get(slot)
            if sibling is not None:
                stay.append(node)
                if sibling not in self._taken_from:
                    self._taken_from[sibling] = (None, key)
                    queue.append(sibling)
                continue
            self._entered_by[node] = key
            if accept(node):
                stay.extend(left[at + 1 :])
                return node
            queue.append(node)
        return None
