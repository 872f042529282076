"""Settling the assignment: as many addresses as possible, then balanced loads, then the fewest moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from egress_router.egressip.assignment.graph import Pool
from egress_router.egressip.assignment.minimise_moves import bring_home

# Which nodes can be reached by moving addresses one after another: breadth-first search in the residual graph.


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


# Settling the assignment: as many addresses as possible, then balanced loads, then the fewest moves.
#
# This is a minimum-cost flow with a convex cost per node, solved from the present assignment in three steps, each of
# which keeps what the ones before have reached: augmenting paths until no address can be added; paths from fuller to
# emptier nodes until none is left (the least sum of squared loads, which is the most even spread that exists); cycles
# that bring an address home without changing the balance. No negative cycle in (number, balance, moves) is left, so
# the result is optimal in that order (Ahuja, Magnanti, Orlin, Network Flows, theorem 9.1).


def settle(pool: Pool) -> dict[int, tuple[str | None, str | None]]:
    """Settle the pool after changes; return each address that moved, with the node before and after."""
    if not pool.revalidate():
        return {}
    insert_directly(pool)
    augment(pool)
    if uneven(pool):
        level_directly(pool)
        while level_once(pool):
            pass
    bring_home(pool)
    return pool.finish()


def insert_directly(pool: Pool) -> None:
    """Put each unplaced address, lowest first, on the least loaded node that can take it as it is."""
    heaps: dict[int, list[tuple[int, str]]] = {}
    for key in sorted(pool.unplaced):
        segment = pool.segment(key)
        heap = heaps.get(segment)
        if heap is None:
            heap = [(pool.load.get(node, 0), node) for node in pool.segments.candidates(segment) if pool.spare(node)]
            heapify(heap)
            heaps[segment] = heap
        aside = []
        while heap:
            load, node = heappop(heap)
            if not pool.spare(node):
                continue
            if load != pool.load.get(node, 0):
                heappush(heap, (pool.load[node], node))
                continue
            slot = pool.slot(key, node)
            if slot in pool.occupant or pool.blocked(slot):
                aside.append((load, node))
                continue
            pool.place(key, node)
            heappush(heap, (load + 1, node))
            break
        for entry in aside:
            heappush(heap, entry)


def augment(pool: Pool) -> None:
    """Add every further address that fits when others move. What one failed search has reached, no later one
    needs to look at, until a path is found.
    """
    frontier = Frontier(pool)
    for key in sorted(pool.unplaced):
        if frontier.exhausted(pool.segment(key)):
            continue
        found = frontier.from_address(key, pool.spare)
        if found is not None:
            pool.shift(frontier.moves_to(found))
            frontier = Frontier(pool)


def uneven(pool: Pool) -> bool:
    """Tell whether two loads, one of a node with room, differ by more than one; False needs no search."""
    loads = [(pool.load.get(node, 0), node) for node in pool.segments.ready()]
    lowest = min((load for load, node in loads if pool.spare(node)), default=None)
    return lowest is not None and max(load for load, _ in loads) > lowest + 1


def level_directly(pool: Pool) -> None:
    """Move single addresses from the fullest to the emptiest node of each segment: the bulk of the work when many
    nodes come at once, without a search for each move.
    """
    for segment in sorted({segment for buckets in pool.on.values() for segment in buckets}):
        nodes = pool.segments.candidates(segment)
        low = [(pool.load.get(node, 0), node) for node in nodes if pool.spare(node)]
        high = [(-pool.load[node], node) for node in nodes if segment in pool.on.get(node, {})]
        heapify(low)
        heapify(high)
        queues: dict[str, list[int]] = {}
        while low and high:
            load, emptiest = heappop(low)
            if not pool.spare(emptiest):
                continue
            if load != pool.load.get(emptiest, 0):
                heappush(low, (pool.load.get(emptiest, 0), emptiest))
                continue
            full, fullest = heappop(high)
            if -full != pool.load[fullest]:
                heappush(low, (load, emptiest))
                heappush(high, (-pool.load[fullest], fullest))
                continue
            if -full < load + 2:
                break
            key = _next_for(pool, segment, fullest, emptiest, queues)
            if key is not None:
                pool.shift([(key, emptiest)])
                load += 1
                heappush(high, (full + 1, fullest))
            heappush(low, (load, emptiest))


def _next_for(pool: Pool, segment: int, giver: str, taker: str, queues: dict[str, list[int]]) -> int | None:
    """Return an address of the giver that the taker can have, those not at home first, else the highest."""
    queue = queues.get(giver)
    if queue is None:
        keys = pool.on.get(giver, {}).get(segment, set())
        queue = queues[giver] = sorted(keys, key=lambda key: (pool.home(key) != giver, key))
    for at in range(len(queue) - 1, -1, -1):
        slot = pool.slot(queue[at], taker)
        if slot not in pool.occupant and not pool.blocked(slot):
            return queue.pop(at)
    return None


def level_once(pool: Pool) -> bool:
    """Find one path from a node to another that has at least two addresses less and room, and move along it.

    Roots are taken from the fullest node down and share what they have visited: a node that a fuller root has
    reached is full enough for that root, so it is for every later one.
    """
    nodes = sorted(pool.segments.ready(), key=lambda node: (-pool.load.get(node, 0), node))
    spare = [pool.load.get(node, 0) for node in nodes if pool.spare(node)]
    if not spare:
        return False
    lowest = min(spare)
    frontier = Frontier(pool)
    for root in nodes:
        limit = pool.load.get(root, 0) - 2
        if limit < lowest:
            return False
        if frontier.visited(root):
            continue
        found = frontier.from_node(root, _accepts(pool, limit))
        if found is not None:
            pool.shift(frontier.moves_to(found))
            return True
    return False


def _accepts(pool: Pool, limit: int) -> Callable[[str], bool]:
    return lambda node: pool.load.get(node, 0) <= limit and pool.spare(node)
