"""How long the egress IP decision takes: 1,000 nodes and 10,000 namespaces, from scratch and change by change.

Prints medians of wall and CPU time, and the slowest of every single change. Run: ``python bench/egressip_decision.py``
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, address_text
from egress_router.egressip.assignment.decision import Evaluator, decide

NODES = 1000
NAMESPACES = 10_000
FIRST = 10 << 24


def ip(number: int) -> str:
    return address_text(FIRST + 1 + number)


def by_hand() -> ClusterState:
    """Two IPs for each namespace, each listed by a node."""
    listed: dict[int, list[str]] = {n: [] for n in range(NODES)}
    for number in range(NAMESPACES):
        listed[number % NODES].append(ip(2 * number))
        listed[(number * 7 + 13) % NODES].append(ip(2 * number + 1))
    return state({n: HostSubnet(name(n), host(n), egress_ips=tuple(ips)) for n, ips in listed.items()})


def one_pool() -> ClusterState:
    """All IPs automatic, every node may have any of them."""
    return state({n: HostSubnet(name(n), host(n), egress_cidrs=("10.0.0.0/9",)) for n in range(NODES)})


def tight() -> ClusterState:
    """All IPs automatic; overlapping zones, and less room than IPs."""
    rng = random.Random(1)
    return state(
        {
            n: HostSubnet(
                name(n),
                host(n),
                egress_cidrs=tuple(f"10.0.{16 * ((n // 100 + k) % 5)}.0/20" for k in range(2)),
                capacity=rng.randint(10, 25),
            )
            for n in range(NODES)
        }
    )


def state(nodes: dict[int, HostSubnet]) -> ClusterState:
    spaces = [NetNamespace(f"ns-{n:05}", n, (ip(2 * n), ip(2 * n + 1))) for n in range(NAMESPACES)]
    return ClusterState({s.name: s for s in spaces}, {n.name: n for n in nodes.values()})


def name(number: int) -> str:
    return f"node-{number:04}"


def host(number: int) -> str:
    return f"10.200.{number >> 8}.{number & 255}"


Spent = list[tuple[float, float]]


def clock(action: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU time of an action; ms."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000


def told(label: str, spent: Spent) -> None:
    walls, cpus = zip(*spent, strict=True)
    figures = (statistics.median(walls), max(walls), statistics.median(cpus), max(cpus))
    print(f"  {label:36} " + " ".join(f"{figure:8.1f}" for figure in figures))


def repeated(action: Callable[[], object], times: int) -> Spent:
    spent = []
    for _ in range(times):
        gc.collect()
        spent.append(clock(action))
    return spent


def changes(cluster: ClusterState, present: Mapping[str, tuple[str, ...]]) -> dict[str, Spent]:
    """Return what each single change took, by kind; each is made and taken back in turn."""
    evaluator = Evaluator(present)
    evaluator.update(cluster.namespaces, cluster.nodes)
    # As agents and the controller do: no full collection of garbage runs over objects that stay.
    gc.collect()
    gc.freeze()
    rng = random.Random(2)
    spent: dict[str, Spent] = {}

    def timed(kind: str, action: Callable[[], object]) -> None:
        spent.setdefault(kind, []).append(clock(action))

    for _ in range(15):
        node = rng.choice(sorted(cluster.nodes))
        space = rng.choice(sorted(cluster.namespaces))
        timed("node goes offline", lambda n=node: evaluator.update(offline=[n]))
        timed("node comes back", lambda: evaluator.update(offline=[]))
        timed("namespace removed", lambda s=space: evaluator.update(namespaces={s: None}))
        timed("namespace added", lambda s=space: evaluator.update(namespaces={s: cluster.namespaces[s]}))
        timed("node removed", lambda n=node: evaluator.update(nodes={n: None}))
        timed("node added", lambda n=node: evaluator.update(nodes={n: cluster.nodes[n]}))
    gc.unfreeze()
    return spent


def main() -> None:
    print(f"{NODES} nodes, {NAMESPACES} namespaces, {2 * NAMESPACES} egress IPs; ms: wall, slowest; CPU, slowest")
    for label, cluster in (("by hand", by_hand()), ("automatic, one pool", one_pool()), ("automatic, tight", tight())):
        print(f"{label}:")
        decision = decide(cluster)
        told("from scratch, nothing assigned yet", repeated(lambda c=cluster: decide(c), 3))
        present = decision.assignment
        told("from scratch, with the present one", repeated(lambda c=cluster, p=present: decide(c, (), p), 3))
        for kind, spent in changes(cluster, present).items():
            told(kind, spent)


if __name__ == "__main__":
    main()
