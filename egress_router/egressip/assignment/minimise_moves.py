"""The last step of solving: bring addresses back to their previous nodes where that costs nothing else.

Searches cycles of negative cost (-1 for an address that returns to its previous node, +1 for one that leaves it) in the
residual graph, along steps that change neither the number of addresses nor the balance. Bellman-Ford with a queue,
started from zero everywhere, so it only ever looks at what an address that moved away can improve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from egress_router.egressip.assignment.graph import AssignmentGraph

#: An address in hand, a node that takes one more, a load that moves up one node, or the unassigned ones.
Vertex = tuple[str, int | str]
OFF: Vertex = ("off", "")


def minimise_moves(graph: AssignmentGraph) -> None:
    """Apply improving cycles until there is none."""
    while True:
        moved_away = sorted(key for key in graph.moved if key in graph.owner and _moved_away(graph, key))
        if not moved_away:
            return
        cycle = _Search(graph, moved_away).run()
        if cycle is None:
            return
        graph.apply_moves(_moves(graph, cycle))


def _moved_away(graph: AssignmentGraph, key: int) -> bool:
    previous = graph.previous_node(key)
    return previous is not None and graph.node_by_address.get(key) != previous


def _moves(graph: AssignmentGraph, cycle: list[Vertex]) -> list[tuple[int, str | None]]:
    """Return the moves of a cycle: each address goes where the next vertex says."""
    moves: list[tuple[int, str | None]] = []
    for vertex, after in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        if vertex[0] != "key":
            continue
        key = vertex[1]
        assert isinstance(key, int)  # noqa: S101 - narrows the vertex type
        kind, name = after
        if kind == "node":
            moves.append((key, str(name)))
        elif kind == "key":
            assert isinstance(name, int)  # noqa: S101 - narrows the vertex type
            moves.append((key, graph.node_by_address[name]))
        else:
            moves.append((key, None))
    return moves


class _Search:
    def __init__(self, graph: AssignmentGraph, moved_away: list[int]) -> None:
        self._graph = graph
        self._moved_away = moved_away
        self._cost: dict[Vertex, int] = {}
        self._before: dict[Vertex, Vertex] = {}
        self._queue: deque[Vertex] = deque()
        self._queued: set[Vertex] = set()
        self._left: dict[int, tuple[int, list[str]]] = {}
        self._misplaced: dict[str, list[int]] = {}
        for key in sorted(graph.moved):
            node = graph.node_by_address.get(key)
            if node is not None and graph.previous_node(key) != node:
                self._misplaced.setdefault(node, []).append(key)
        self._at_load: dict[int, list[str]] = {}
        for node in sorted(graph.segments.ready()):
            self._at_load.setdefault(graph.load.get(node, 0), []).append(node)

    def run(self) -> list[Vertex] | None:
        """Return the vertices of an improving cycle in order, None when there is none."""
        for key in self._moved_away:
            previous = self._graph.previous_node(key)
            if previous is not None:
                found = self._relax(("key", key), self._arrival(key, previous, 0))
                if found:
                    return found
        while self._queue:
            found = self._expand(self._queue.popleft(), deeper=True)
            if found:
                return found
        return None

    def _expand(self, vertex: Vertex, *, deeper: bool) -> list[Vertex] | None:
        """Relax all steps from a vertex. An address that is taken up is put down at once, so that the next of its
        segment finds out that there is nothing left to reach.
        """
        self._queued.discard(vertex)
        for step in self._steps(vertex):
            found = self._relax(vertex, step)
            if not found and deeper and step[0][0] == "key" and self._queue and self._queue[-1] == step[0]:
                found = self._expand(self._queue.pop(), deeper=False)
            if found:
                return found
        return None

    def _relax(self, vertex: Vertex, step: tuple[Vertex, int] | None) -> list[Vertex] | None:
        if step is None or step[1] >= self._cost.get(step[0], 0):
            return None
        after, cost = step
        chain = [vertex]
        while chain[-1] != after and chain[-1] in self._before:
            chain.append(self._before[chain[-1]])
        if chain[-1] == after:
            return chain[::-1]
        self._cost[after] = cost
        self._before[after] = vertex
        if after not in self._queued:
            self._queued.add(after)
            self._queue.append(after)
        return None

    def _steps(self, vertex: Vertex) -> Iterator[tuple[Vertex, int]]:
        kind, name = vertex
        cost = self._cost[vertex]
        if kind == "key":
            yield from self._put_down(int(name), cost)
        elif kind == "node":
            yield from self._pick_up(str(name), cost)
        elif kind == "load":
            for node in self._at_load.get(int(name) + 1, ()):
                yield ("node", node), cost
        else:
            for key in sorted(self._graph.unassigned):
                if self._graph.previous_node(key) is not None or not self._exhausted(self._graph.segment(key), cost):
                    yield ("key", key), cost

    def _pick_up(self, node: str, cost: int) -> Iterator[tuple[Vertex, int]]:
        """A node that takes one more either gives one away or swaps its load with a node that has one more."""
        graph = self._graph
        if graph.has_capacity(node):
            yield ("load", graph.load.get(node, 0)), cost
        for key in self._misplaced.get(node, ()):
            yield ("key", key), cost
        if cost + 1 < 0:
            buckets = graph.addresses_by_node.get(node, {})
            for segment in sorted(buckets):
                for key in sorted(buckets[segment]):
                    if self._exhausted(segment, cost + 1):
                        break
                    if graph.previous_node(key) == node:
                        yield ("key", key), cost + 1

    def _exhausted(self, segment: int, cost: int) -> bool:
        """Return whether an address of the segment, held for this cost, reaches only what is reached already (its
        previous node apart).
        """
        best, left = self._left.get(segment, (0, []))
        return best <= cost and not left

    def _put_down(self, key: int, cost: int) -> Iterator[tuple[Vertex, int]]:
        """An address in hand goes to its previous node, to any other candidate, or stays unassigned."""
        graph = self._graph
        previous = graph.previous_node(key)
        sits_on = graph.node_by_address.get(key)
        if previous is not None and previous != sits_on:
            step = self._arrival(key, previous, cost)
            if step:
                yield step
        if sits_on is not None:
            yield OFF, cost
        segment = graph.segment(key)
        best, left = self._left.get(segment, (0, []))
        nodes = graph.candidates(key) if cost < best else left
        stay: list[str] = []
        for node in nodes:
            # A node that takes one more for this cost can give away any of its addresses: no need to push one out.
            if self._cost.get(("node", node), 0) <= cost:
                continue
            step = None if node == sits_on else self._arrival(key, node, cost)
            if step is None or step[0][0] == "key":
                stay.append(node)
            if step is not None:
                yield step
        if cost <= best:
            self._left[segment] = (cost, stay)

    def _arrival(self, key: int, node: str, cost: int) -> tuple[Vertex, int] | None:
        """Return the vertex that the address reaches on the node, and the cost there."""
        graph = self._graph
        placement = graph.placement(key, node)
        if graph.blocked(placement):
            return None
        if graph.previous_node(key) == node:
            cost -= 1
        sibling = graph.occupant.get(placement)
        if sibling is None:
            return ("node", node), cost
        if sibling == key:
            return None
        return ("key", sibling), cost + (1 if graph.previous_node(sibling) == node else 0)
