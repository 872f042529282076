"""What a node's agent puts into its kernel for namespace egress IPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from egress_router.egressip.node.marks import DEFAULT_MARKS, Marks

Network = IPv4Network | IPv6Network

#: The protocol number of the agent's routes, rules and addresses.
NODE_PROTOCOL = 147
TUNNEL = "egressvx0"
#: UDP ports of nodes: of the tunnel, and of what agents tell each other. Not 4789 to 4791, which network cards and
#: container networks take for VXLAN, VXLAN-GPE and RoCE v2.
TUNNEL_PORT = 14790
PROBE_PORT = 14791
TUNNEL_ID = 4790
#: What an encrypted tunnel goes through, and its UDP port.
ENCRYPTED = "egresswg0"
WIREGUARD_PORT = 14792
#: The conntrack zone of what pods send through the tunnel outside of connections (UDP, ICMP).
TUNNEL_ZONE = 14700
#: IPv4 or IPv6, UDP, VXLAN and Ethernet headers (RFC 7348).
TUNNEL_OVERHEAD = {4: 50, 6: 70}
#: IPv4 or IPv6, UDP, and head and authenticator of WireGuard's data messages.
ENCRYPTION_OVERHEAD = {4: 60, 6: 80}

MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
#: Never a way out: link-local, multicast, broadcast.
NOT_OUTSIDE = {
    4: ("169.254.0.0/16", MULTICAST[4], "255.255.255.255/32"),
    6: ("fe80::/10", MULTICAST[6]),
}


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How an agent runs. ``cluster`` are the networks of pods, services and nodes, which traffic never leaves;
    times are seconds. ``pass_unknown``: a pod that no object tells of may leave with the node's address. ``dad``: an
    egress IP is asked for before it is claimed. ``marks``: those that lead packets to a gateway.
    ``tunnel_port`` and ``probe_port`` are UDP ports, the same on every node. ``keys``: the file with
    the keys that agents sign with, None: they do not. ``encrypted``: the tunnel goes through WireGuard, on UDP
    ``wireguard_port``.
    """

    node: str
    interface: str
    cluster: tuple[Network, ...]
    pass_unknown: bool = False
    probe_interval: float = 0.08
    probe_misses: int = 4
    probe_returns: int = 5
    probe_port: int = PROBE_PORT
    dad: bool = True
    marks: Marks = DEFAULT_MARKS
    tunnel_port: int = TUNNEL_PORT
    keys: Path | None = None
    encrypted: bool = False
    wireguard_port: int = WIREGUARD_PORT


@dataclass(frozen=True, slots=True)
class Gateway:
    """Another node that egress traffic is sent to: its slot, name and address."""

    slot: int
    node: str
    host_ip: str


class Direct(Enum):
    """How a pod leaves where no other node is involved: with the node's address, because its namespace has no egress
    IPs; with an egress IP that this node has; or not at all.
    """

    NODE_ADDRESS = "normal"
    LOCAL_GATEWAY = "own"
    NO_GATEWAY = "drop"


@dataclass(frozen=True, slots=True, order=True)
class Remote:
    """A pod leaves through the tunnel, by the gateway with that slot."""

    slot: int


EgressPath = Direct | Remote


@dataclass(frozen=True, slots=True)
class NodeState:
    """Everything that one node's kernel shall hold; addresses as canonical text.

    ``paths``: how each local pod leaves.
    ``translations``: the egress IP of each pod, of any node, that this node translates.
    ``egress``: addresses of pods that must never leave with an address that is not their egress IP.
    ``assigned``: the egress IPs on the outside interface; ``arp_suppressed``: those of them that ARP and neighbour
    discovery do not answer for.
    ``pods``: networks and addresses of the pods of this node.
    ``peers``: addresses of the other nodes, the only ones that the tunnel accepts packets from.
    ``gateways``: the other nodes that traffic may be sent to, without those that are down; ``draining``: the slots of
    those that only keep established connections. ``probed``: with those that are down, to which the way is kept.
    ``duplicate_pod_ips``: addresses that pods of two namespaces have (two of NAMESPACE/NAME); dropped.
    ``translating_nodes``: by local pod address, the slots of the nodes that translate it; established connections stay
    there, wherever new ones go.
    ``awaited``: the slots of gateways that are gone and whose connections wait for a standby: nothing of them leaves
    meanwhile.
    ``lingering``: egress IPs among the ``translations`` that are no longer on this node's interface: other nodes have
    them, or are about to, and what still comes here goes on.
    ``excepted``: by local pod address, the networks of its family that it reaches directly, as a pod without egress IPs
    does; as canonical text without overlaps.
    """

    paths: Mapping[str, EgressPath] = field(default_factory=dict)
    translations: Mapping[str, str] = field(default_factory=dict)
    egress: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()
    arp_suppressed: frozenset[str] = frozenset()
    pods: frozenset[str] = frozenset()
    peers: frozenset[str] = frozenset()
    gateways: tuple[Gateway, ...] = ()
    probed: tuple[Gateway, ...] = ()
    draining: frozenset[int] = frozenset()
    duplicate_pod_ips: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    translating_nodes: Mapping[str, frozenset[int]] = field(default_factory=dict)
    excepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    awaited: frozenset[int] = frozenset()
    lingering: frozenset[str] = frozenset()

    def way(self, pod: str) -> str:
        """Return the way of a local pod address in one word: through (another node), or a value of Direct."""
        path = self.paths[pod]
        if path is Direct.NO_GATEWAY and self.excepted.get(pod) in (("0.0.0.0/0",), ("::/0",)):
            return Direct.NODE_ADDRESS.value
        return "through" if isinstance(path, Remote) else path.value
