"""The nodes that this node's pods leave through, and the egress IPs that this node itself shall have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from egress_router.daemon.reachability import Health, HolderHealth
from egress_router.egressip.api import ClusterState, Decision, address_key, address_text
from egress_router.egressip.node.plan import assign_slots
from egress_router.net.icmp_probe import Answer
from egress_router.net.rtnetlink.values import Observed

# The other nodes that this node's pods leave through: their health, their slots, and what they lack.


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


# The egress IPs that this node shall have: which fit its interface, which it has, and when the others are tried.

#: An address that another machine has is tried again after so long, then twice as long, at most the other; seconds.
#: The machine before us may be giving it up this moment.
RETRY_CLAIM, RETRY_CLAIM_MOST = 0.3, 10.0
#: So many addresses fit a datagram; a node that lacks more is about to get them, or has other problems.
MOST_LACKED = 40


@dataclass(slots=True)
class Holdings:
    """``held``: on the interface. ``refused``: another machine answers. ``misfits``: cannot stand on this interface."""

    interface: str
    held: frozenset[str] = frozenset()
    refused: dict[str, str] = field(default_factory=dict)
    misfits: dict[str, str] = field(default_factory=dict)
    _retries: dict[str, tuple[float, float]] = field(default_factory=dict)

    def fitting(self, claims: Collection[str], host_ip: str, observed: Observed) -> list[str]:
        """Return the claims that the interface can hold, and note why the others do not fit."""
        self.misfits = {}
        if not claims:
            return []
        if host_ip not in {str(a.address.ip) for a in observed.addresses}:
            self.misfits = dict.fromkeys(claims, f"hostIP {host_ip} is not an address of this machine")
            return []
        subnets = [
            a.address.network
            for a in observed.addresses
            if a.interface == self.interface
            and a.global_scope
            and a.address.network.prefixlen < a.address.max_prefixlen
        ]
        fitting = [ip for ip in claims if any(ip_address(ip) in subnet for subnet in subnets)]
        self.misfits = dict.fromkeys(set(claims) - set(fitting), f"outside the subnets of {self.interface}")
        return fitting

    def settle(self, wanted: set[str], now: float) -> set[str]:
        """Forget what is not wanted any more; return what is to be checked now, before it is claimed."""
        self.held &= wanted
        self.refused = {ip: why for ip, why in self.refused.items() if ip in wanted}
        for ip in self._retries.keys() - wanted:
            del self._retries[ip]
        due = {ip for ip in wanted - self.held if self._retries.get(ip, (0.0, 0.0))[0] <= now}
        for ip in due & self._retries.keys():
            self._retries[ip] = (now + RETRY_CLAIM_MOST, self._retries[ip][1])
        return due

    def refuse(self, ip: str, reason: str, now: float) -> None:
        """Another machine answers for the address; it is tried again later."""
        self.refused[ip] = reason
        wait = min(2 * self._retries[ip][1], RETRY_CLAIM_MOST) if ip in self._retries else RETRY_CLAIM
        self._retries[ip] = (now + wait, wait)

    def free(self, ip: str) -> None:
        """Nobody answers for the address."""
        self.refused.pop(ip, None)
        self._retries.pop(ip, None)

    def next_try(self) -> float | None:
        """Return when the next address is to be tried again, None when none is."""
        return min((at for at, _ in self._retries.values()), default=None)

    def lacked(self, wanted: set[str]) -> tuple[str, ...]:
        """Return the addresses that other nodes are told not to use here, as many as fit a datagram."""
        return tuple(sorted(wanted - self.held | self.misfits.keys())[:MOST_LACKED])

    def settled(self, wanted: set[str]) -> bool:
        """Tell whether everything wanted is here, or refused for a reason."""
        return wanted <= (self.held | self.refused.keys())
