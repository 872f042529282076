"""Pods with the address of an earlier pod, or whose namespace gave egress IPs away: who may still translate as before.

A holder whose agent is dead, or has not heard of the change yet, goes on translating the pod's address to an egress IP
that is another namespace's by now. So it is asked first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.egressip.api import ClusterState, Decision, address_key, address_text

#: So many pods are asked about at once.
_MOST_ASKED = 20


@dataclass(slots=True)
class Heirs:
    """``doubted``: by pod address, the nodes that have not shown yet that they know of the change."""

    doubted: dict[str, frozenset[str]] = field(default_factory=dict)
    _sources: dict[str, frozenset[str]] = field(default_factory=dict)

    def follow(self, me: str, state: ClusterState, before: Decision) -> None:
        """Take in the objects. Nodes that have a lost egress IP by the decision ``before`` are doubted."""
        present: set[str] = set()
        listed: dict[str, frozenset[str]] = {}
        for pod in state.pods.values():
            if pod.node != me:
                continue
            present.update(pod.ips)
            if pod.namespace not in listed:
                space = state.namespaces.get(pod.namespace)
                keys = map(address_key, space.egress_ips) if space else ()
                listed[pod.namespace] = frozenset(address_text(key) for key in keys if key is not None)
            for ip in pod.ips:
                lost = self._sources.get(ip, frozenset()) - listed[pod.namespace]
                self._sources[ip] = listed[pod.namespace]
                if lost:
                    holders = {name for name, held in before.nodes.items() if not lost.isdisjoint(held.claims)} - {me}
                    self.doubted[ip] = self.doubted.get(ip, frozenset()) | holders
        for ip in self.doubted.keys() - present:
            del self.doubted[ip]

    def heard(self, node: str, told: Mapping[str, str]) -> bool:
        """Take in what a node says it translates pods to ("": it does not, and lets nothing of theirs out); return
        whether that ends a doubt.
        """
        known = [
            ip
            for ip, source in told.items()
            if node in self.doubted.get(ip, ()) and (not source or source in self._sources[ip])
        ]
        for ip in known:
            self.doubted[ip] -= {node}
            if not self.doubted[ip]:
                del self.doubted[ip]
        return bool(known)

    def questions(self) -> dict[str, list[str]]:
        """Return which pods each doubted node is to be asked about next."""
        found: dict[str, list[str]] = {}
        for ip, nodes in self.doubted.items():
            for node in nodes:
                found.setdefault(node, []).append(ip)
        return {node: ips[:_MOST_ASKED] for node, ips in found.items()}
