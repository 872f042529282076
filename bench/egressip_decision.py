"""How long the egress IP decision takes: 1,000 nodes and 10,000 namespaces, from scratch and change by change.

Prints medians. Run: ``python bench/egressip_decision.py``
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

from egress_router.model.address_keys import address_text
from egress_router.model.egressip import ClusterState, HostSubnet, NetNamespace
from egress_router.plan.egressip.decision import Evaluator, decide

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


def median(action: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        gc.collect()
        start = time.perf_counter()
        action()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1000


def changes(cluster: ClusterState, present: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Return the median in ms of each kind of single change, made and taken back in turn."""
    evaluator = Evaluator(present)
    evaluator.update(cluster.namespaces, cluster.nodes)
    rng = random.Random(2)
    spent: dict[str, list[float]] = {}

    def timed(kind: str, action: Callable[[], object]) -> None:
        start = time.perf_counter()
        action()
        spent.setdefault(kind, []).append((time.perf_counter() - start) * 1000)

    for _ in range(15):
        node = rng.choice(sorted(cluster.nodes))
        space = rng.choice(sorted(cluster.namespaces))
        timed("node goes offline", lambda n=node: evaluator.update(offline=[n]))
        timed("node comes back", lambda: evaluator.update(offline=[]))
        timed("namespace removed", lambda s=space: evaluator.update(namespaces={s: None}))
        timed("namespace added", lambda s=space: evaluator.update(namespaces={s: cluster.namespaces[s]}))
        timed("node removed", lambda n=node: evaluator.update(nodes={n: None}))
        timed("node added", lambda n=node: evaluator.update(nodes={n: cluster.nodes[n]}))
    return {kind: statistics.median(times) for kind, times in spent.items()} | {
        "slowest of all": max(max(times) for times in spent.values())
    }


def main() -> None:
    print(f"{NODES} nodes, {NAMESPACES} namespaces, {2 * NAMESPACES} egress IPs; ms, medians")
    for label, cluster in (("by hand", by_hand()), ("automatic, one pool", one_pool()), ("automatic, tight", tight())):
        print(f"{label}:")
        decision = decide(cluster)
        print(f"  from scratch, nothing assigned yet   {median(lambda c=cluster: decide(c), 3):8.1f}")
        present = decision.assignment
        print(f"  from scratch, with the present one   {median(lambda c=cluster, p=present: decide(c, (), p), 3):8.1f}")
        for kind, spent in changes(cluster, present).items():
            print(f"  {kind:36} {spent:8.1f}")


if __name__ == "__main__":
    main()
