"""What is known of a connection is not asked again, except whether its pod may still leave so."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from egress_router.egressip.node.state import TUNNEL_PORT
from lab import Host
from tests.egressip.kernel.egress_scene import FAMILY, SERVICES, TOTO, UDP, Flow, Scene, ip_packet, send_raw

pytestmark = [pytest.mark.root, pytest.mark.parametrize("version", [4, 6])]


@contextmanager
def stream(pod: Host, version: int) -> Iterator[socket.socket]:
    """A TCP connection to the echo service."""
    with pod.socket(FAMILY[version], socket.SOCK_STREAM) as opened:
        opened.settimeout(3)
        opened.connect((SERVICES[version], 80))
        yield opened


@contextmanager
def standing_still(scene: Scene) -> Iterator[None]:
    """No agent does anything: what is in the kernel is all there is."""
    agents = list(scene.cluster.agents.values())
    for agent in agents:
        agent.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGCONT)


def counted(node: Host, reason: str) -> int:
    return int(
        node.run(["nft", "list", "counter", "inet", "egress_node", reason]).stdout.split("packets ")[1].split()[0]
    )


@pytest.mark.parametrize(
    ("own", "name", "reason"),
    [
        (True, "allowed_pairs", "wrong_source"),
        (False, "allowed_pairs", "wrong_source"),
        (False, "translated_pods", "tunnel_untranslated"),
    ],
)
def test_a_change_binds_known_connections_from_its_transaction_on(
    scene: Scene, version: int, own: bool, name: str, reason: str
) -> None:
    """Before anybody has ended them: of the holder's own pods and of those that come by the tunnel."""
    holder, pod = scene.lab.nodes[1], scene.local if own else scene.client
    address, ip = str(pod.addresses[version]), TOTO[version]
    element = f"{address} . {ip}" if name == "allowed_pairs" else address
    flow = Flow(pod, version)
    with scene.leaving_with(ip), stream(pod, version) as connection:
        scene.cluster.until(lambda: flow.has(ip))
        connection.sendall(b"x")
        assert ip in connection.recv(300).decode()
        with standing_still(scene):
            before = counted(holder, reason)
            holder.nft(f"delete element inet egress_node {name}{version} {{ {element} }}")
            try:
                connection.settimeout(0.3)
                connection.sendall(b"x")
                with pytest.raises(TimeoutError):
                    connection.recv(300)
                assert not flow.source()
                assert counted(holder, reason) >= before + 2, "both"
            finally:
                holder.nft(f"add element inet egress_node {name}{version} {{ {element} }}")
        connection.settimeout(5)
        assert connection.recv(300) == b"x", "it is the same connection"
    scene.cluster.settle()


def test_packets_of_the_tunnel_are_no_connections(scene: Scene, version: int) -> None:
    """The one inside is tracked on both nodes, by its marks."""
    flow = Flow(scene.client, version)
    with scene.leaving_with(TOTO[version]):
        scene.cluster.until(lambda: flow.has(TOTO[version]))
    for node, mark in ((scene.lab.nodes[0], 0x20010000), (scene.lab.nodes[1], 0x20000000)):
        underlay = "ipv6" if scene.world.underlay == 6 else "ipv4"
        tracked = node.run(["conntrack", "-L", "-f", underlay, "-p", "udp"]).stdout
        assert f"dport={TUNNEL_PORT}" not in tracked
        inside = node.run(["conntrack", "-L", "-f", f"ipv{version}", "-p", "udp"]).stdout
        (entry,) = [line for line in inside.splitlines() if f"sport={flow.port} dport=53 " in line]
        assert int(entry.split("mark=")[1].split()[0]) & 0xF0000000 == mark & 0xF0000000
        assert node is scene.lab.nodes[0] or f"mark={mark} " in entry


def test_what_only_passes_by_is_a_connection_whoever_it_says_that_it_is_from(scene: Scene, version: int) -> None:
    """A pod with a node's address as its source reaches nobody outside at the tunnel's port; another is masqueraded."""
    ports = struct.pack("!HHHH", 5555, TUNNEL_PORT, 9, 0) + b"x"
    service, own = SERVICES[version], scene.node_address(0, version)
    with scene.lab.capture() as capture:
        send_raw(scene.plain, ip_packet(scene.node_address(2, version), service, UDP, ports), version)
        with scene.plain.socket(FAMILY[version], socket.SOCK_DGRAM) as honest:
            honest.settimeout(0.3)
            honest.sendto(b"x", (service, TUNNEL_PORT))
            with suppress(OSError):
                honest.recv(10)
        scene.cluster.until(lambda: any(str(packet.src) == own for packet in capture.outgoing()))
        assert {str(packet.src) for packet in capture.outgoing()} == {own}
