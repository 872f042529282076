"""The other nodes that this node's pods leave through: their health, their slots, and what they lack."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from egress_router.egressip.health import Health, HolderHealth
from egress_router.kernel.node_probe import Answer
from egress_router.model.address_keys import address_key, address_text
from egress_router.model.egressip import ClusterState, Decision
from egress_router.plan.egressip.node_plan import assign_slots


@dataclass(slots=True)
class Holders:
    """``misses`` and ``returns``: see HolderHealth. ``losses`` counts the probes of each holder without an echo."""

    misses: int
    returns: int
    health: dict[str, HolderHealth] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    failovers: int = 0
    _lacks: dict[str, frozenset[str]] = field(default_factory=dict)

    def follow(self, me: str, state: ClusterState, decision: Decision) -> None:
        """Keep exactly the nodes that pods of node ``me`` need."""
        wanted = wanted_here(me, state)
        needed = {name for name, held in decision.nodes.items() if name != me and not wanted.isdisjoint(held.claims)}
        for name in self.health.keys() - needed:
            del self.health[name]
            self.losses.pop(name, None)
        for name in needed - self.health.keys():
            self.health[name] = HolderHealth(self.misses, self.returns)
        self.slots = assign_slots(needed, self.slots)

    def probed(self, answers: Mapping[str, Answer]) -> tuple[bool, list[str]]:
        """Take in a round of probes: whether something must be applied, and what changed in words."""
        changed, said = False, []
        for name, answer in answers.items():
            health = self.health.get(name)
            if health is not None:
                if not answer.echo:
                    self.losses[name] = self.losses.get(name, 0) + 1
                before = health.state
                if health.probed(echo=answer.echo, ready=answer.ready, draining=answer.draining):
                    said.append(f"node {name} is {health.state}")
                    self.failovers += before is Health.UP and health.state is Health.DOWN
                    changed = True
            if answer.lacks is not None and answer.lacks != self._lacks.get(name, frozenset()):
                self._lacks[name] = answer.lacks
                changed = True
        return changed, said

    def judge_unknown(self) -> None:
        """Take those that have not answered so far for down."""
        for health in self.health.values():
            if health.state is Health.UNKNOWN:
                health.state = Health.DOWN

    def in_state(self, *states: Health) -> frozenset[str]:
        """Return the holders whose health is one of these."""
        return frozenset(name for name, health in self.health.items() if health.state in states)

    def offline(self) -> set[str]:
        """Return the holders that nothing can be sent to."""
        return set(self.health) - self.in_state(Health.UP, Health.DRAINING)

    def alive(self) -> dict[str, int]:
        """Return the slots of the holders that carry connections."""
        carrying = self.in_state(Health.UP, Health.DRAINING)
        return {name: slot for name, slot in self.slots.items() if name in carrying}

    def lacking(self, decision: Decision) -> set[str]:
        """Return the addresses that their holders say they do not have."""
        nodes = decision.nodes
        return {
            ip
            for name in list(self.health)
            for ip in self._lacks.get(name, ())
            if name in nodes and ip in nodes[name].claims
        }

    def adopt(self, slots: Mapping[str, int], used: Collection[str], alive: Collection[str]) -> None:
        """Take over the slots that an earlier agent gave: what was in use (chains' names) as up, what was alive besides
        as draining, so that connections through it go on until its own word is heard.
        """
        for name, slot in slots.items():
            if name in self.health and f"to_{slot}" in used:
                self.health[name].state = Health.UP
            elif name in self.health and f"to_{slot}" in alive:
                self.health[name].state = Health.DRAINING


def wanted_here(me: str, state: ClusterState) -> set[str]:
    """Return the egress IPs of the namespaces that have pods on this node: what other nodes are needed for."""
    spaces = {pod.namespace for pod in state.pods.values() if pod.node == me} & state.namespaces.keys()
    keys = (address_key(text) for space in spaces for text in state.namespaces[space].egress_ips)
    return {address_text(key) for key in keys if key is not None}
