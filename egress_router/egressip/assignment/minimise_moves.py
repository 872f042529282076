"""The last step of settling: bring addresses back home where that costs nothing else.

Searches cycles of negative cost (-1 for an address that comes home, +1 for one that leaves its home) in the residual
graph, along steps that change neither the number of addresses nor the balance. Bellman-Ford with a queue, started
from zero everywhere, so it only ever looks at what an address that is away from home can improve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from egress_router.egressip.assignment.graph import Pool

#: An address in the hand, a node that takes one more, a load that moves up one node, or the unplaced ones.
Vertex = tuple[str, int | str]
OFF: Vertex = ("off", "")


def bring_home(pool: Pool) -> None:
    """Apply improving cycles until there is none."""
    while True:
        away = sorted(key for key in pool.moved if key in pool.owner and _away(pool, key))
        if not away:
            return
        cycle = _Search(pool, away).run()
        if cycle is None:
            return
        pool.shift(_moves(pool, cycle))


def _away(pool: Pool, key: int) -> bool:
    home = pool.home(key)
    return home is not None and pool.at.get(key) != home


def _moves(pool: Pool, cycle: list[Vertex]) -> list[tuple[int, str | None]]:
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
            moves.append((key, pool.at[name]))
        else:
            moves.append((key, None))
    return moves


class _Search:
    def __init__(self, pool: Pool, away: list[int]) -> None:
        self._pool = pool
        self._away = away
        self._cost: dict[Vertex, int] = {}
        self._before: dict[Vertex, Vertex] = {}
        self._queue: deque[Vertex] = deque()
        self._queued: set[Vertex] = set()
        self._left: dict[int, tuple[int, list[str]]] = {}
        self._loose: dict[str, list[int]] = {}
        for key in sorted(pool.moved):
            node = pool.at.get(key)
            if node is not None and pool.home(key) != node:
                self._loose.setdefault(node, []).append(key)
        self._at_load: dict[int, list[str]] = {}
        for node in sorted(pool.segments.ready()):
            self._at_load.setdefault(pool.load.get(node, 0), []).append(node)

    def run(self) -> list[Vertex] | None:
        """Return the vertices of an improving cycle in order, None when there is none."""
        for key in self._away:
            home = self._pool.home(key)
            if home is not None:
                found = self._relax(("key", key), self._arrival(key, home, 0))
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
            for key in sorted(self._pool.unplaced):
                if self._pool.home(key) is not None or not self._exhausted(self._pool.segment(key), cost):
                    yield ("key", key), cost

    def _pick_up(self, node: str, cost: int) -> Iterator[tuple[Vertex, int]]:
        """A node that takes one more either gives one away or swaps its load with a node that has one more."""
        pool = self._pool
        if pool.spare(node):
            yield ("load", pool.load.get(node, 0)), cost
        for key in self._loose.get(node, ()):
            yield ("key", key), cost
        if cost + 1 < 0:
            buckets = pool.on.get(node, {})
            for segment in sorted(buckets):
                for key in sorted(buckets[segment]):
                    if self._exhausted(segment, cost + 1):
                        break
                    if pool.home(key) == node:
                        yield ("key", key), cost + 1

    def _exhausted(self, segment: int, cost: int) -> bool:
        """Tell whether an address of the segment, held for this cost, reaches only what is reached already (its
        home apart).
        """
        best, left = self._left.get(segment, (0, []))
        return best <= cost and not left

    def _put_down(self, key: int, cost: int) -> Iterator[tuple[Vertex, int]]:
        """An address in the hand goes home, to any other candidate, or off."""
        pool = self._pool
        home = pool.home(key)
        sits_on = pool.at.get(key)
        if home is not None and home != sits_on:
            step = self._arrival(key, home, cost)
            if step:
                yield step
        if sits_on is not None:
            yield OFF, cost
        segment = pool.segment(key)
        best, left = self._left.get(segment, (0, []))
        nodes = pool.candidates(key) if cost < best else left
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
        pool = self._pool
        slot = pool.slot(key, node)
        if pool.blocked(slot):
            return None
        if pool.home(key) == node:
            cost -= 1
        sibling = pool.occupant.get(slot)
        if sibling is None:
            return ("node", node), cost
        if sibling == key:
            return None
        return ("key", sibling), cost + (1 if pool.home(sibling) == node else 0)
