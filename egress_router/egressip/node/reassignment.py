"""Pods with the address of an earlier pod, or whose namespace gave egress IPs away: who may still translate as before.

A holder whose agent is dead, or has not heard of the change yet, goes on translating the pod's address to an egress IP
that is another namespace's by now. So it is asked first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from egress_router.egressip.api import ClusterState, Decision, address_key, address_text

#: So many pods are asked about at once.
_MOST_QUERIES = 20
#: Addresses of pods that are gone are remembered for the pods that have them next, those that left last: a CNI with a
#: large IPv6 range would never end.
_MOST_GONE = 4096


@dataclass(slots=True)
class ReassignmentGuard:
    """``unconfirmed``: by pod address, the nodes that have not confirmed yet that they know of the change."""

    unconfirmed: dict[str, frozenset[str]] = field(default_factory=dict)
    _sources: dict[str, frozenset[str]] = field(default_factory=dict)
    #: The same of addresses that no pod has now: whoever has one next may be sent to a node that still translates for
    #: the pod before the last one.
    _owed: dict[str, frozenset[str]] = field(default_factory=dict)

    def follow(self, me: str, state: ClusterState, before: Decision) -> None:
        """Take in the objects. Nodes that have a lost egress IP by the decision ``before`` must confirm first."""
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
                lost = self._sources.pop(ip, frozenset()) - listed[pod.namespace]
                self._sources[ip] = listed[pod.namespace]
                holders = self._owed.pop(ip, frozenset())
                if lost:
                    had = {name for name, held in before.nodes.items() if not lost.isdisjoint(held.claims)}
                    holders |= had - {me}
                if holders:
                    self.unconfirmed[ip] = self.unconfirmed.get(ip, frozenset()) | holders
        for ip in self.unconfirmed.keys() - present:
            self._owed[ip] = self.unconfirmed.pop(ip)
        if len(self._sources) > len(present) + _MOST_GONE:
            # In the order in which they were seen last.
            gone = [ip for ip in self._sources if ip not in present]
            for ip in gone[: len(gone) - _MOST_GONE]:
                del self._sources[ip]
                self._owed.pop(ip, None)

    def on_reply(self, node: str, sources: Mapping[str, str]) -> bool:
        """Take in what a node says it translates pods to ("": it does not, and lets nothing of theirs out); return
        whether that confirms anything.
        """
        known = [
            ip
            for ip, source in sources.items()
            if node in self.unconfirmed.get(ip, ()) and (not source or source in self._sources[ip])
        ]
        for ip in known:
            self.unconfirmed[ip] -= {node}
            if not self.unconfirmed[ip]:
                del self.unconfirmed[ip]
        return bool(known)

    def doubted(self, nodes: Collection[str]) -> dict[str, frozenset[str]]:
        """Return what is unconfirmed by these nodes alone. Others, to which nothing would be sent, are not asked, and
        perhaps there no more.
        """
        unconfirmed = list(self.unconfirmed.items())
        found = {ip: frozenset(node for node in doubted if node in nodes) for ip, doubted in unconfirmed}
        return {ip: doubted for ip, doubted in found.items() if doubted}

    def pending_queries(self) -> dict[str, list[str]]:
        """Return which pods each node that has not confirmed is to be asked about next."""
        found: dict[str, list[str]] = {}
        for ip, nodes in self.unconfirmed.items():
            for node in nodes:
                found.setdefault(node, []).append(ip)
        return {node: ips[:_MOST_QUERIES] for node, ips in found.items()}
