"""The gateways that this node's pods leave through, and the egress IPs that are assigned to this node itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from egress_router.egressip.api import ClusterState, Decision, address_key, address_text
from egress_router.egressip.health import Health, NodeHealth
from egress_router.egressip.node.legs import GatewayLegs
from egress_router.egressip.node.marks import LAST_SLOT
from egress_router.egressip.node.plan import assign_slots
from egress_router.egressip.node.state import NodeSettings
from egress_router.net.icmp_probe import Answer
from egress_router.net.rtnetlink.values import LinkAddress
from egress_router.net.tunnel_echo import Leg


@dataclass(slots=True)
class Gateways:
    """The other nodes that this node's pods leave through: their health, their slots, and which of their egress IPs
    they do not have yet.

    ``misses`` and ``returns``: see NodeHealth. ``losses`` counts the rounds in which a gateway did
    not answer by all ``legs`` that count.
    """

    misses: int
    returns: int
    health: dict[str, NodeHealth] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    legs: dict[str, GatewayLegs] = field(default_factory=dict)
    failovers: int = 0
    last_slot: int = LAST_SLOT
    #: Those whose agents can be told of pods that start.
    take_pods: set[str] = field(default_factory=set)
    _pending: dict[str, frozenset[str]] = field(default_factory=dict)
    #: By the name of a gateway that is new, after how many rounds its silence says something.
    _awaited: dict[str, int] = field(default_factory=dict)

    def follow(self, me: str, state: ClusterState, decision: Decision, beside: Collection[str] = ()) -> None:
        """Keep exactly the nodes that pods of node ``me`` need, those of ``beside`` that there are, and the standbys of
        what the pods need: so it is known whether they are up when it comes to that.
        """
        wanted = wanted_here(me, state)
        needed = {name for name, held in decision.nodes.items() if name != me and not wanted.isdisjoint(held.claims)}
        spare = {*beside, *(node for ip, node in state.standbys.items() if ip in wanted)}
        needed |= spare & state.nodes.keys() - {me}
        for name in self.health.keys() - needed:
            del self.health[name]
            self.losses.pop(name, None)
            self.legs.pop(name, None)
            self._awaited.pop(name, None)
        for name in needed - self.health.keys():
            self.health[name] = NodeHealth(self.misses, self.returns)
            self._awaited[name] = self.misses
        self.slots = assign_slots(needed, self.slots, self.last_slot)

    def probed(self, answers: Mapping[str, Answer]) -> tuple[bool, list[str]]:
        """Take in a round of probes; return whether something must be applied, and messages for the log."""
        changed, messages = False, []
        for name, answer in answers.items():
            health = self.health.get(name)
            if health is not None:
                legs = self.legs.setdefault(name, GatewayLegs())
                works = legs.note(answer)
                if not legs.complete:
                    self.losses[name] = self.losses.get(name, 0) + 1
                before = health.state
                if health.probed(echo=works, ready=answer.ready, draining=answer.draining):
                    messages.append(f"node {name} is {health.state}")
                    self.failovers += before is Health.UP and health.state is Health.DOWN
                    changed = True
                changed |= self._was_awaited(name)
            if answer.pending is not None:
                (self.take_pods.add if answer.takes_pods else self.take_pods.discard)(name)
            if answer.pending is not None and answer.pending != self._pending.get(name, frozenset()):
                self._pending[name] = answer.pending
                changed = True
        return changed, messages

    def said(self, name: str, pending: frozenset[str] | None) -> bool:
        """Take in which addresses a gateway says that it lacks, before its round is over (None: it says nothing of it);
        return whether that is news.
        """
        if pending is None or name not in self.health or pending == self._pending.get(name, frozenset()):
            return False
        self._pending[name] = pending
        return True

    def _was_awaited(self, name: str) -> bool:
        """Take in that a round is over; return whether the gateway is awaited no more, and still not known."""
        if name not in self._awaited:
            return False
        self._awaited[name] -= 1
        if self._awaited[name] > 0 and self.health[name].state is Health.UNKNOWN:
            return False
        del self._awaited[name]
        return self.health[name].state is Health.UNKNOWN

    def unheard(self) -> frozenset[str]:
        """Return the gateways that are new, and of which nobody can tell yet whether they are up."""
        return frozenset(self._awaited) & self.in_state(Health.UNKNOWN)

    def silent(self) -> frozenset[str]:
        """Return the gateways that answer pings while their agents say nothing."""
        return frozenset(name for name, legs in self.legs.items() if legs.is_silent())

    def missing(self, probes: int) -> frozenset[str]:
        """Return the gateways that have not answered so many probes in a row or more."""
        return frozenset(name for name, health in self.health.items() if health.probes.missed >= probes)

    def assume_unknown_down(self) -> None:
        """Treat gateways that have not answered yet as down."""
        for health in self.health.values():
            if health.state is Health.UNKNOWN:
                health.state = Health.DOWN

    def in_state(self, *states: Health) -> frozenset[str]:
        """Return the gateways whose health is one of these."""
        return frozenset(name for name, health in self.health.items() if health.state in states)

    def offline(self) -> set[str]:
        """Return the gateways that nothing can be sent to."""
        return set(self.health) - self.in_state(Health.UP, Health.DRAINING)

    def alive(self) -> dict[str, int]:
        """Return the slots of the gateways that carry connections."""
        carrying = self.in_state(Health.UP, Health.DRAINING)
        return {name: slot for name, slot in self.slots.items() if name in carrying}

    def pending(self, decision: Decision) -> set[str]:
        """Return the egress IPs that their gateways say they do not have yet."""
        nodes = decision.nodes
        return {
            ip
            for name in list(self.health)
            for ip in self._pending.get(name, ())
            if name in nodes and ip in nodes[name].claims
        }

    def forget_leg(self, leg: Leg) -> None:
        """Forget what was heard and missed by a leg that is there no more: nobody is asked by it, so that one which
        missed answers last would be broken for ever.
        """
        for legs in self.legs.values():
            legs.forget(leg)

    def leg_problems(self, settings: NodeSettings, size: int, back: str) -> list[str]:
        """Return what is wrong with the paths to gateways that answer pings; see GatewayLegs.problem."""
        found = (
            legs.problem(name, _tunnel_ports(settings), settings.probe_port, size, back)
            for name, legs in sorted(self.legs.items())
        )
        return [text for text in found if text]

    def adopt(self, slots: Mapping[str, int], used: Collection[int], alive: Collection[int]) -> None:
        """Take over the slots that an earlier agent gave: what was in use as up, what was alive besides
        as draining, so that connections through it go on until its own word is heard.
        """
        for name, slot in slots.items():
            if name in self.health and slot in used:
                self.health[name].state = Health.UP
            elif name in self.health and slot in alive:
                self.health[name].state = Health.DRAINING


def _tunnel_ports(settings: NodeSettings) -> str:
    if settings.encrypted:
        encrypts = (
            "and its agent must encrypt, too, with keys that this one believes (--tunnel-encryption, --agent-keys)"
        )
        return f"UDP port {settings.wireguard_port} must be open between the nodes, in both directions, {encrypts}"
    return (
        f"UDP port {settings.tunnel_port} must be open between the nodes, in both directions, also where a firewall "
        "looks at states: its packets are not tracked (--ctstate UNTRACKED)"
    )


def wanted_here(me: str, state: ClusterState) -> set[str]:
    """Return the egress IPs of the namespaces that have pods on this node: what other nodes are needed for."""
    spaces = {pod.namespace for pod in state.pods.values() if pod.node == me} & state.namespaces.keys()
    keys = (address_key(text) for space in spaces for text in state.namespaces[space].egress_ips)
    return {address_text(key) for key in keys if key is not None}


#: An address that another machine has is tried again after so long, then twice as long, at most the other; seconds.
#: The machine before us may be giving it up this moment.
RETRY_CLAIM, RETRY_CLAIM_MOST = 0.3, 10.0
#: The same of an address whose connections wait here.
RETRY_HURRIED = 0.05
#: So many addresses fit a datagram; a node with more of them is about to get them, or has other problems.
MOST_PENDING = 40


@dataclass(slots=True)
class LocalAssignments:
    """The egress IPs that are assigned to this node. ``assigned``: on the interface. ``duplicates``: another machine
    answers for the address (duplicate address detection failed), and the reason. ``outside_subnets``: cannot stand on
    this interface, and the reason.
    """

    interface: str
    assigned: frozenset[str] = frozenset()
    duplicates: dict[str, str] = field(default_factory=dict)
    outside_subnets: dict[str, str] = field(default_factory=dict)
    _retries: dict[str, tuple[float, float]] = field(default_factory=dict)

    def fitting(self, claims: Collection[str], host_ip: str, addresses: Collection[LinkAddress]) -> list[str]:
        """Return the claims that the interface can have, given the node's ``addresses``, and note why the others cannot
        stand there.
        """
        self.outside_subnets = {}
        if not claims:
            return []
        if host_ip not in {str(a.address.ip) for a in addresses}:
            self.outside_subnets = dict.fromkeys(claims, f"hostIP {host_ip} is not an address of this machine")
            return []
        subnets = [
            a.address.network
            for a in addresses
            if a.interface == self.interface
            and a.global_scope
            and a.address.network.prefixlen < a.address.max_prefixlen
        ]
        fitting = [ip for ip in claims if any(ip_address(ip) in subnet for subnet in subnets)]
        self.outside_subnets = dict.fromkeys(set(claims) - set(fitting), f"outside the subnets of {self.interface}")
        return fitting

    def due_for_check(self, wanted: set[str], now: float) -> set[str]:
        """Forget what is not wanted any more; return the addresses to check for duplicates now, before the claim."""
        self.assigned &= wanted
        self.duplicates = {ip: why for ip, why in self.duplicates.items() if ip in wanted}
        for ip in self._retries.keys() - wanted:
            del self._retries[ip]
        due = {ip for ip in wanted - self.assigned if self._retries.get(ip, (0.0, 0.0))[0] <= now}
        for ip in due & self._retries.keys():
            self._retries[ip] = (now + RETRY_CLAIM_MOST, self._retries[ip][1])
        return due

    def duplicate_found(self, ip: str, reason: str, now: float, *, hurried: bool = False) -> None:
        """Note that the address cannot be claimed now; it is checked again later, a ``hurried`` one sooner."""
        self.duplicates[ip] = reason
        first = RETRY_HURRIED if hurried else RETRY_CLAIM
        wait = min(2 * self._retries[ip][1], RETRY_CLAIM_MOST) if ip in self._retries else first
        self._retries[ip] = (now + wait, wait)

    def no_duplicate(self, ip: str) -> None:
        """Note that nobody answers for the address."""
        self.duplicates.pop(ip, None)
        self._retries.pop(ip, None)

    def next_try(self) -> float | None:
        """Return when the next address is to be checked again, None when none is."""
        return min((at for at, _ in self._retries.values()), default=None)

    def pending(self, wanted: set[str]) -> tuple[str, ...]:
        """Return the addresses that other nodes are told not to use here, as many as fit a datagram."""
        return tuple(sorted(wanted - self.assigned | self.outside_subnets.keys())[:MOST_PENDING])

    def complete(self, wanted: set[str]) -> bool:
        """Return whether every wanted address is on the interface, or is a duplicate."""
        return wanted <= (self.assigned | self.duplicates.keys())
