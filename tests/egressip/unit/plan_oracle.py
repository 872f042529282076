"""What one node's kernel shall hold, in a plain wording that looks at all pods each time, to judge the planner by."""

from __future__ import annotations

from egress_router.egressip.api import ClusterState, Decision, Disposition, Pod, address_key, address_text
from egress_router.egressip.node.plan import chosen
from egress_router.egressip.node.state import Direct, EgressPath, Remote


class PlanOracle:
    """``paths``, ``translations``, ``egress``, ``duplicates``, ``translating`` of a node without ranges of pods, each
    address by itself, from the wording of docs/egress-ips.md.
    """

    def __init__(
        self,
        me: str,
        state: ClusterState,
        decision: Decision,
        slots: dict[str, int],
        assigned: frozenset[str],
        pending: frozenset[str],
        draining: frozenset[str],
        unconfirmed: dict[str, frozenset[str]],
    ) -> None:
        self.me, self.state, self.decision, self.slots = me, state, decision, slots
        self.assigned, self.pending, self.draining, self.unconfirmed = assigned, pending, draining, unconfirmed
        self.paths: dict[str, EgressPath] = {}
        self.translations: dict[str, str] = {}
        self.egress: set[str] = set()
        self.duplicates: set[str] = set()
        self.translating: dict[str, frozenset[int]] = {}
        hosts = {canonical(node.host_ip) for node in state.nodes.values()}
        self.pods = [pod for pod in state.pods.values() if hosts.isdisjoint(pod.ips)]
        for ip in {ip for pod in self.pods for ip in pod.ips}:
            self.address(ip, [pod for pod in self.pods if ip in pod.ips])

    def own(self, namespace: str, ip: str) -> str | None:
        """The first address of a namespace on this node in the family of a pod's address."""
        space = self.state.namespaces.get(namespace)
        listed = [canonical(text) for text in space.egress_ips] if space else []
        return next((text for text in listed if text in self.assigned and (":" in text) == (":" in ip)), None)

    def on_this_node(self, namespace: str) -> bool:
        return self.own(namespace, "0.0.0.0") is not None or self.own(namespace, "::") is not None

    def address(self, ip: str, pods: list[Pod]) -> None:
        pods = [pod for pod in pods if pod.node == self.me or self.on_this_node(pod.namespace)]
        spaces = {pod.namespace for pod in pods}
        here = {pod.namespace for pod in pods if pod.node == self.me} & self.decision.namespaces.keys()
        with_ips = {
            name
            for name in spaces & self.decision.namespaces.keys()
            if self.decision.namespaces[name].disposition is not Disposition.NORMAL
        }
        mine = {name for name in with_ips if name in here or self.own(name, ip) is not None}
        if mine:
            self.egress.add(ip)
        if mine and len(spaces) > 1:
            self.duplicates.add(ip)
            if here:
                self.paths[ip] = Direct.NO_GATEWAY
            return
        for name in spaces & self.decision.namespaces.keys():
            if name in with_ips and (own := self.own(name, ip)) is not None:
                self.translations[ip] = own
            if name in here:
                self.paths[ip] = self.path(ip, name) if name in with_ips else Direct.NODE_ADDRESS
                if name in with_ips:
                    self.translating[ip] = self.translators(ip, name)

    def path(self, ip: str, name: str) -> EgressPath:
        ways = [
            via
            for via in self.decision.namespaces[name].via
            if (":" in via.ip) == (":" in ip)
            and via.ip not in self.pending
            and via.node not in self.unconfirmed.get(ip, frozenset())
        ]
        for some in ([via for via in ways if via.node not in self.draining], ways):
            if some:
                if self.own(name, ip) is not None and any(via.node == self.me for via in some):
                    return Direct.LOCAL_GATEWAY
                others = [via for via in some if via.node != self.me and via.node in self.slots]
                return Remote(self.slots[chosen(ip, others).node]) if others else Direct.NO_GATEWAY
        return Direct.NO_GATEWAY

    def translators(self, ip: str, name: str) -> frozenset[int]:
        listed = {canonical(text) for text in self.state.namespaces[name].egress_ips}
        return frozenset(
            slot
            for node, slot in self.slots.items()
            if node in self.decision.nodes
            and node not in self.unconfirmed.get(ip, frozenset())
            and any(
                text in listed and text not in self.pending and (":" in text) == (":" in ip)
                for text in self.decision.nodes[node].claims
            )
        )


def canonical(text: str) -> str:
    key = address_key(text)
    return text if key is None else address_text(key)
