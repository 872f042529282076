"""The solver of the automatic assignment: as many addresses as possible, then balanced loads, then the fewest moves.

A minimum-cost flow with a convex cost per node, solved from the present assignment in three steps, each of which keeps
what the ones before have reached: augmenting paths until no address can be added; paths from fuller to emptier nodes
until none is left (the least sum of squared loads, which is the most even spread that exists); cycles that bring an
address back to its previous node without changing the balance. No negative cycle in (number, balance, moves) is left,
so the result is optimal in that order (Ahuja, Magnanti, Orlin, Network Flows, theorem 9.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from egress_router.egressip.assignment.graph import AssignmentGraph
from egress_router.egressip.assignment.minimise_moves import minimise_moves


class AugmentingPathSearch:
    """A search that can be continued from further roots and never visits anything twice.

    Vertices are addresses in hand (taken off their node, or not assigned yet) and nodes that are about to
    take one more. An address in hand enters a candidate node, or pushes out the address of the same
    namespace that sits there; a node that was entered can give away any of its addresses. Nodes that a
    segment's addresses have all reached are not looked at again, so a search costs as much as there are nodes
    and addresses, not their product.
    """

    def __init__(self, graph: AssignmentGraph) -> None:
        self._graph = graph
        self._entered_by: dict[str, int | None] = {}
        self._taken_from: dict[int, tuple[str | None, int | None]] = {}
        self._left: dict[int, list[str]] = {}

    def visited(self, node: str) -> bool:
        """Return whether a search has reached the node."""
        return node in self._entered_by

    def exhausted(self, segment: int) -> bool:
        """Return whether addresses of the segment have reached every candidate node: another one finds nothing new."""
        left = self._left.get(segment)
        return left is not None and not left

    def from_address(self, key: int, accept: Callable[[str], bool]) -> str | None:
        """Search from an unassigned address; return the first accepted node that can be reached."""
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
                target = self._graph.node_by_address[key]
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
        """Take addresses off the node, those first that were on another node before."""
        graph = self._graph
        buckets = graph.addresses_by_node.get(node, {})
        for segment in sorted(buckets):
            left = self._left.get(segment)
            if left is not None and not left:
                continue
            for key in sorted(buckets[segment], key=lambda key: (graph.previous_node(key) == node, key)):
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
        """Bring an address in hand to every candidate node that was not reached yet."""
        graph = self._graph
        segment = graph.segment(key)
        left = self._left.get(segment)
        if left is None:
            left = list(graph.candidates(key))
        stay: list[str] = []
        self._left[segment] = stay
        sits_on = graph.node_by_address.get(key)
        for at, node in enumerate(left):
            if node in self._entered_by:
                continue
            placement = graph.placement(key, node)
            if node == sits_on or graph.blocked(placement):
                stay.append(node)
                continue
            sibling = graph.occupant.get(placement)
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


def solve(graph: AssignmentGraph, *, balance: bool = True) -> dict[int, tuple[str | None, str | None]]:
    """Assign all addresses anew after changes; return each that moved, with the node before and after. Without
    ``balance`` none moves for its sake alone: only where others could not be assigned else.
    """
    if not graph.revalidate():
        return {}
    insert_directly(graph)
    augment(graph)
    if balance and uneven(graph):
        balance_directly(graph)
        while balance_once(graph):
            pass
    minimise_moves(graph)
    return graph.finish()


def insert_directly(graph: AssignmentGraph) -> None:
    """Put each unassigned address, lowest first, on the least loaded node that can take it as it is."""
    heaps: dict[int, list[tuple[int, str]]] = {}
    for key in sorted(graph.unassigned):
        segment = graph.segment(key)
        heap = heaps.get(segment)
        if heap is None:
            heap = [
                (graph.load.get(node, 0), node)
                for node in graph.segments.candidates(segment)
                if graph.has_capacity(node)
            ]
            heapify(heap)
            heaps[segment] = heap
        aside = []
        while heap:
            load, node = heappop(heap)
            if not graph.has_capacity(node):
                continue
            if load != graph.load.get(node, 0):
                heappush(heap, (graph.load[node], node))
                continue
            placement = graph.placement(key, node)
            if placement in graph.occupant or graph.blocked(placement):
                aside.append((load, node))
                continue
            graph.assign(key, node)
            heappush(heap, (load + 1, node))
            break
        for entry in aside:
            heappush(heap, entry)


def augment(graph: AssignmentGraph) -> None:
    """Add every further address that fits when others move. What one failed search has reached, no later one
    needs to look at, until a path is found.
    """
    search = AugmentingPathSearch(graph)
    for key in sorted(graph.unassigned):
        if search.exhausted(graph.segment(key)):
            continue
        found = search.from_address(key, graph.has_capacity)
        if found is not None:
            graph.apply_moves(search.moves_to(found))
            search = AugmentingPathSearch(graph)


def uneven(graph: AssignmentGraph) -> bool:
    """Return whether two loads, one of a node with free capacity, differ by more than one; False needs no search."""
    loads = [(graph.load.get(node, 0), node) for node in graph.segments.ready()]
    lowest = min((load for load, node in loads if graph.has_capacity(node)), default=None)
    return lowest is not None and max(load for load, _ in loads) > lowest + 1


def balance_directly(graph: AssignmentGraph) -> None:
    """Move single addresses from the fullest to the emptiest node of each segment: the bulk of the work when many
    nodes come at once, without a search for each move.
    """
    for segment in sorted({segment for buckets in graph.addresses_by_node.values() for segment in buckets}):
        nodes = graph.segments.candidates(segment)
        low = [(graph.load.get(node, 0), node) for node in nodes if graph.has_capacity(node)]
        high = [(-graph.load[node], node) for node in nodes if segment in graph.addresses_by_node.get(node, {})]
        heapify(low)
        heapify(high)
        queues: dict[str, list[int]] = {}
        while low and high:
            load, emptiest = heappop(low)
            if not graph.has_capacity(emptiest):
                continue
            if load != graph.load.get(emptiest, 0):
                heappush(low, (graph.load.get(emptiest, 0), emptiest))
                continue
            full, fullest = heappop(high)
            if -full != graph.load[fullest]:
                heappush(low, (load, emptiest))
                heappush(high, (-graph.load[fullest], fullest))
                continue
            if -full < load + 2:
                break
            key = _next_for(graph, segment, fullest, emptiest, queues)
            if key is not None:
                graph.apply_moves([(key, emptiest)])
                load += 1
                heappush(high, (full + 1, fullest))
            heappush(low, (load, emptiest))


def _next_for(graph: AssignmentGraph, segment: int, giver: str, taker: str, queues: dict[str, list[int]]) -> int | None:
    """Return an address of the giver that the taker can have: those that were elsewhere before, or the highest."""
    queue = queues.get(giver)
    if queue is None:
        keys = graph.addresses_by_node.get(giver, {}).get(segment, set())
        queue = queues[giver] = sorted(keys, key=lambda key: (graph.previous_node(key) != giver, key))
    for at in range(len(queue) - 1, -1, -1):
        placement = graph.placement(queue[at], taker)
        if placement not in graph.occupant and not graph.blocked(placement):
            return queue.pop(at)
    return None


def balance_once(graph: AssignmentGraph) -> bool:
    """Find one path from a node to another that has at least two addresses less and free capacity, and move along it.

    Roots are taken from the fullest node down and share what they have visited: a node that a fuller root has
    reached is full enough for that root, so it is for every later one.
    """
    nodes = sorted(graph.segments.ready(), key=lambda node: (-graph.load.get(node, 0), node))
    spare = [graph.load.get(node, 0) for node in nodes if graph.has_capacity(node)]
    if not spare:
        return False
    lowest = min(spare)
    search = AugmentingPathSearch(graph)
    for root in nodes:
        limit = graph.load.get(root, 0) - 2
        if limit < lowest:
            return False
        if search.visited(root):
            continue
        found = search.from_node(root, _accepts(graph, limit))
        if found is not None:
            graph.apply_moves(search.moves_to(found))
            return True
    return False


def _accepts(graph: AssignmentGraph, limit: int) -> Callable[[str], bool]:
    return lambda node: graph.load.get(node, 0) <= limit and graph.has_capacity(node)
