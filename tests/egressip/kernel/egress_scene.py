"""A cluster with egress IPs that many tests share: three nodes, three namespaces with addresses, one without."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from egress_router.egressip.node.state import TUNNEL_ID
from egress_router.egressip.node.tunnel import tunnel_mac
from lab import Capture, Host, Lab
from lab.addressing import pod_subnet
from tests.egressip.kernel.egress_cluster import FIRST, FIRST6, SECOND, SECOND6, SERVICE, SERVICE6, EgressCluster, World

#: By IP version: the outside service, and the egress IPs of the namespaces toto, rival and third.
SERVICES = {4: SERVICE, 6: SERVICE6}
TOTO = {4: FIRST, 6: FIRST6}
RIVAL = {4: SECOND, 6: SECOND6}
THIRD = {4: "192.0.2.56", 6: "2001:db8:2::56"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
TCP, UDP, ICMPV6 = 6, 17, 58
_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMPV6: 2}
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}


class Scene:
    """toto and third have an address per family on the second node, rival has one on the third node. Each has a pod on
    the first node, toto one on the second node too; ``plain`` and ``beside_holder`` are of a namespace without egress
    IPs. No object tells of the pod ``nobody``. ``stranger`` is a machine beside the nodes.
    """

    def __init__(self, lab: Lab, state: Path, world: World) -> None:
        self.lab = lab
        self.world = world
        for service in SERVICES.values():
            lab.echo(service, tcp=[80], udp=53)
        self.cluster = cluster = EgressCluster(lab, state, world)
        cluster.namespace("plain")
        self.put_back()
        self.client, self.third, self.plain = (cluster.pod(name, name, 0) for name in ("toto", "third", "plain"))
        self.rival = cluster.pod("rival", "rival", 0)
        self.local = cluster.pod("local", "toto", 1)
        self.beside_holder = cluster.pod("beside", "plain", 1)
        self.nobody = lab.pod("nobody", node=0)
        self.subnets = [f"{pod_subnet(number, 4)},{pod_subnet(number, 6)}" for number in range(3)]
        self.stranger = lab.machine("stranger", "192.0.2.99")
        cluster.start()
        cluster.settle()

    def put_back(self) -> None:
        """Write the namespaces and the nodes' addresses as they were in the beginning."""
        nodes = self.lab.nodes
        for name, ips in (("toto", TOTO), ("rival", RIVAL), ("third", THIRD)):
            self.cluster.namespace(name, *ips.values())
        self.cluster.holds(nodes[1], *TOTO.values(), *THIRD.values())
        self.cluster.holds(nodes[2], *RIVAL.values())

    def node_address(self, number: int, version: int) -> str:
        return str(self.lab.nodes[number].addresses[version])

    def dropped(self, node: int, reason: str) -> int:
        count: int = self.cluster.ask(self.lab.nodes[node])["dropped_packets"][reason]
        return count

    @contextmanager
    def leaving_with(self, *allowed: str) -> Iterator[Capture]:
        """Check in the end that packets have left, and none with another source."""
        with self.lab.capture() as capture:
            yield capture
            assert capture.outgoing(), "positive control"
            assert not capture.leaks(allowed=set(allowed))


@contextmanager
def overlay(one: tuple[Host, Host], other: tuple[Host, Host], version: int) -> Iterator[None]:
    """Put a VXLAN of a container network between two nodes, for what goes to two of their pods; each end is a pod and
    its node. The device is called ``overlay``.
    """
    try:
        for (_, node), (far_pod, far_node), number in ((one, other, 1), (other, one, 2)):
            ends = f"local {node.addresses[version]} remote {far_node.addresses[version]}"
            inner = {4: "169.254.7.{}/24", 6: "fd07::{}/64"}[version]
            node.ip(f"link add overlay type vxlan id 4096 dstport 4789 {ends}")
            node.ip(f"addr add {inner.format(number)} dev overlay" + (" nodad" if version == 6 else ""))
            node.ip("link set overlay up")
            hop = inner.format(3 - number).partition("/")[0]
            node.ip(f"-{version} route add {far_pod.addresses[version]} via {hop} dev overlay metric 1")
        yield
    finally:
        for _, node in (one, other):
            node.ip("link del overlay")


class Flow:
    """A UDP socket of a pod that goes on and on, from the same port to the same service."""

    def __init__(self, pod: Host, version: int) -> None:
        self._socket = pod.socket(FAMILY[version], socket.SOCK_DGRAM)
        self._socket.settimeout(0.1)
        self._socket.connect((SERVICES[version], 53))
        self.port: int = self._socket.getsockname()[1]
        self.heard: list[str] = []

    def source(self) -> str:
        """Send, and return the source that the service saw, "" without an answer."""
        try:
            self._socket.send(b"x")
            self.heard.append(self._socket.recv(300).decode().split()[0])
        except OSError:
            return ""
        return self.heard[-1]

    def has(self, source: str) -> bool:
        return self.source() == source


def checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ip_packet(source: str, target: str, protocol: int, payload: bytes, hops: int = 64) -> bytes:
    """Return an IP packet; TCP, UDP and ICMPv6 get their checksum, whose field must be zero."""
    ends = ip_address(source).packed + ip_address(target).packed
    if protocol in _CHECKSUM_AT:
        at = _CHECKSUM_AT[protocol]
        pseudo = ends + struct.pack("!II", len(payload), protocol)
        payload = payload[:at] + struct.pack("!H", checksum(pseudo + payload)) + payload[at + 2 :]
    if len(ends) == 32:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + ends + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, hops, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: int = 5555, target: int = 53) -> bytes:
    """Return a UDP datagram without a checksum yet."""
    return struct.pack("!HHHH", source, target, 9, 0) + b"x"


def send_raw(host: Host, packet: bytes, version: int) -> None:
    """Send a whole IP packet, whatever its source says, from a pod to its node."""
    target = packet[16:20] if version == 4 else packet[24:40]
    with host.socket(FAMILY[version], socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        raw.sendto(packet, (str(ip_address(target)), 0))


def in_tunnel(packet: bytes, host_ip: str, version: int) -> bytes:
    """Return a datagram for the tunnel of a node (RFC 7348) with an IP packet in it."""
    ethernet = bytes.fromhex(tunnel_mac(host_ip).replace(":", "")) + b"\x0a\0\0\0\0\1"
    vxlan = struct.pack("!II", 8 << 24, TUNNEL_ID << 8)
    return vxlan + ethernet + struct.pack("!H", _ETHERTYPE[version]) + packet
