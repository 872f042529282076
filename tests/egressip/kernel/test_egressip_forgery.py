"""Packets that pretend, and packets that are rarely met: each leaves with its namespace's address or not at all."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from functools import partial

import pytest

from egress_router.egressip.node.state import PROBE_PORT, TUNNEL_PORT
from lab import Host, NoReply
from tests.egressip.kernel.egress_scene import (
    FAMILY,
    ICMPV6,
    SERVICES,
    TOTO,
    UDP,
    Flow,
    Scene,
    in_tunnel,
    ip_packet,
    send_raw,
    udp,
)

pytestmark = [pytest.mark.root, pytest.mark.parametrize("version", [4, 6])]

NO_NEXT, EXPERIMENT = 59, 253
DESTINATION_OPTIONS, HOP_BY_HOP = 60, 0
_SOL_IP, _IP_RECVERR, _IP_TTL = 0, 11, 2
_SOL_IPV6, _IPV6_RECVERR, _IPV6_HOPS = 41, 25, 16


def test_only_nodes_reach_the_tunnel(scene: Scene, version: int) -> None:
    """Neither a pod, though its node gives it the node's address towards other nodes, nor a machine."""
    holder = scene.node_address(1, scene.world.underlay)
    frame = in_tunnel(ip_packet(str(scene.client.addresses[version]), SERVICES[version], UDP, udp()), holder, version)
    stranger = scene.stranger

    def send(host: Host) -> None:
        with host.socket(FAMILY[scene.world.underlay], socket.SOCK_DGRAM) as flow:
            flow.sendto(frame, (holder, TUNNEL_PORT))

    with scene.leaving_with(TOTO[version]) as capture:
        send(scene.lab.nodes[0])
        scene.cluster.until(lambda: bool(capture.outgoing()))
        capture.clear()
        for reason, node, host in (("forged_node", 0, scene.plain), ("tunnel_stranger", 1, stranger)):
            before = scene.dropped(node, reason)
            send(host)
            scene.cluster.until(lambda node=node, reason=reason, n=before: scene.dropped(node, reason) > n)  # type: ignore[misc]
        assert not capture.outgoing()
        send(scene.lab.nodes[0])
        scene.cluster.until(lambda: bool(capture.outgoing()))


def test_a_pod_tells_its_nodes_agent_nothing(scene: Scene, version: int) -> None:
    """It would count as a node that uses this one, and hold up a hand-over."""
    underlay, question = scene.world.underlay, b'{"ask": 1, "uses": true}'
    node = scene.lab.nodes[0]
    with scene.plain.socket(FAMILY[underlay], socket.SOCK_DGRAM) as flow:
        flow.settimeout(0.3)
        flow.connect((scene.node_address(0, underlay), PROBE_PORT))
        flow.send(question)
        with pytest.raises(TimeoutError):
            flow.recv(1000)
    assert str(scene.plain.addresses[underlay]) not in scene.cluster.ask(node)["users"]


def test_nobody_can_be_a_pod_of_another_node(scene: Scene, version: int) -> None:
    """Neither to leave with that pod's egress IP by its holder, nor with the address of the node on the way."""
    target = SERVICES[version]
    remote, local = str(scene.client.addresses[version]), str(scene.local.addresses[version])
    beside, stranger = scene.beside_holder, scene.stranger
    stranger.ip(f"-{version} route replace {target} via {scene.node_address(1, version)}")
    with scene.lab.capture() as capture:
        for sender in (beside, stranger):
            send_raw(sender, ip_packet(str(sender.addresses[version]), target, UDP, udp()), version)
            scene.cluster.until(lambda: len(capture.outgoing()) > 0)
            capture.clear()
        for sender, source in ((beside, remote), (stranger, remote), (scene.plain, local), (scene.client, local)):
            send_raw(sender, ip_packet(source, target, UDP, udp()), version)
        time.sleep(0.3)
        assert not capture.outgoing()


def test_a_pod_leaves_with_no_address_of_nobody(scene: Scene, version: int) -> None:
    """Of no network of the cluster: the kernel would drop it where rp_filter is strict, and only in IPv4."""
    target, node = SERVICES[version], scene.lab.nodes[0]
    forged = {4: "198.18.0.7", 6: "2001:db8:bad::7"}[version]
    with scene.lab.capture() as capture:
        send_raw(scene.plain, ip_packet(str(scene.plain.addresses[version]), target, UDP, udp()), version)
        scene.cluster.until(lambda: bool(capture.outgoing()))
        capture.clear()
        before = scene.dropped(0, "forged_source")
        send_raw(scene.plain, ip_packet(forged, target, UDP, udp()), version)
        if version == 6 or not scene.world.rp_filter:
            scene.cluster.until(lambda: scene.dropped(0, "forged_source") > before)
        time.sleep(0.3)
        assert not capture.outgoing()
        # What a network behind another interface of the node sends leaves as before.
        family = f"-{version}"
        route = f"{family} route add {forged} via {scene.plain.addresses[version]}"
        node.ip(route)
        try:
            send_raw(scene.plain, ip_packet(forged, target, UDP, udp()), version)
            scene.cluster.until(lambda: bool(capture.outgoing()))
        finally:
            node.ip(route.replace(" add ", " del "))


def test_what_is_for_the_node_itself_is_no_forgery(scene: Scene, version: int) -> None:
    """A node with a second interface is reached there by machines that it answers by the first one."""
    node, family = scene.lab.nodes[0], f"-{version}"
    machine, own = {4: ("198.18.0.7", "203.0.113.77"), 6: ("2001:db8:bad::7", "2001:db8:113::77")}[version]
    if version == 4 and scene.world.rp_filter:
        pytest.skip("the kernel itself drops it where rp_filter is strict")
    node.ip(f"{family} address add {own} dev lo{' nodad' * (version == 6)}")
    try:
        with node.socket(FAMILY[version], socket.SOCK_DGRAM) as service:
            service.bind((own, 53))
            service.settimeout(2)
            before = scene.dropped(0, "forged_source")
            send_raw(scene.plain, ip_packet(machine, own, UDP, udp()), version)
            assert service.recvfrom(100)[1][0] == machine
            assert scene.dropped(0, "forged_source") == before
    finally:
        node.ip(f"{family} address del {own} dev lo")


def test_what_a_bridge_passes_on_does_not_leave_by_the_node(scene: Scene, version: int) -> None:
    """Frames between two ports of a bridge for virtual machines, which br_netfilter shows to the rules of IP. What the
    node itself is to route from there is judged as what a pod sends.
    """
    node, target = scene.lab.nodes[0], SERVICES[version]
    machine = {4: "198.18.0.7", 6: "2001:db8:bad::7"}[version]
    ethertype = {4: b"\x08\x00", 6: b"\x86\xdd"}[version]
    node.sysctl({4: "net.bridge.bridge-nf-call-iptables", 6: "net.bridge.bridge-nf-call-ip6tables"}[version], 1)
    node.ip_batch(
        [
            "link add br-vm type bridge mcast_snooping 0 forward_delay 0",
            *(f"link add {end} type veth peer name {end}-port" for end in ("vm-a", "vm-b")),
            *(f"link set {end}-port master br-vm" for end in ("vm-a", "vm-b")),
            *(f"link set {name} up" for name in ("br-vm", "vm-a", "vm-b", "vm-a-port", "vm-b-port")),
        ]
    )
    scene.lab.worker.wait_ready(node.netns_path, ["br-vm", "vm-a", "vm-b", "vm-a-port", "vm-b-port"])
    packet = ip_packet(machine, target, UDP, udp())
    try:
        with node.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender, scene.lab.capture() as capture:
            sender.bind(("vm-a", 0))
            with node.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as other:
                other.bind(("vm-b", 0))
                other.settimeout(2)
                before = scene.dropped(0, "forged_source")
                sender.send(bytes.fromhex("020000000099") + bytes.fromhex("020000000098") + ethertype + packet)
                while not other.recv(2000).endswith(packet):
                    pass
            assert scene.dropped(0, "forged_source") == before
            own = bytes.fromhex(node.mac("br-vm").replace(":", ""))
            sender.send(own + bytes.fromhex("020000000098") + ethertype + packet)
            if version == 6 or not scene.world.rp_filter:
                scene.cluster.until(lambda: scene.dropped(0, "forged_source") > before)
            time.sleep(0.3)
            assert not capture.outgoing()
    finally:
        for name in ("vm-a", "vm-b", "br-vm"):
            node.ip(f"link del {name}")


def test_a_service_decides_what_is_outside(scene: Scene, version: int) -> None:
    """Its external address with an endpoint inside is inside; its cluster address with an endpoint outside is not."""
    lab, node = scene.lab, scene.lab.nodes[0]
    endpoint = scene.plain.addresses[version]
    family = {4: "ip", 6: "ip6"}[version]
    external = {4: "203.0.113.200", 6: "2001:db8:113::200"}[version]
    internal = {4: "198.51.100.250", 6: "2001:db8:a:8::250"}[version]
    with closing(lab.echo(endpoint, tcp=8080, host=scene.plain)):
        assert lab.tcp(scene.client, endpoint, 8080), "positive control"
        node.nft(
            f"table {family} services {{ chain to {{ type nat hook prerouting priority dstnat; "
            f"{family} daddr {external} dnat to {endpoint}; {family} daddr {internal} dnat to {SERVICES[version]}; }}\n"
            "chain from { type nat hook postrouting priority srcnat - 10; "
            f"{family} daddr {endpoint} ct status dnat masquerade; }}\n}}\n"
        )
        try:
            assert lab.tcp(scene.client, external, 8080)
            assert scene.cluster.source_of(scene.client, internal) == TOTO[version]
        finally:
            node.nft(f"delete table {family} services")


def test_large_datagrams(scene: Scene, version: int) -> None:
    """They leave in fragments, and so do the answers."""
    with scene.leaving_with(TOTO[version]) as capture:
        for pod in (scene.client, scene.local):
            asking = partial(scene.lab.udp, pod, SERVICES[version], 53, payload="x" * 4000, timeout=0.3)
            scene.cluster.until(lambda asking=asking: asking().startswith(f"{TOTO[version]} "))  # type: ignore[misc]
        assert len(capture.outgoing()) >= 6


def test_rare_packets(scene: Scene, version: int) -> None:
    """Unknown protocols, extension headers, messages of no connection, groups."""
    target, group = SERVICES[version], {4: "224.0.1.7", 6: "ff0e::7"}[version]
    padding = b"\1\4\0\0\0\0"
    with scene.leaving_with(TOTO[version]) as capture:
        # Without ports, two connections of one protocol between one egress IP and one service cannot be told apart.
        for pod, protocol in ((scene.client, EXPERIMENT), (scene.local, EXPERIMENT + 1)):
            source = str(pod.addresses[version])
            packets = [ip_packet(source, target, protocol, b"hello"), ip_packet(source, group, UDP, udp())]
            if version == 4:
                packets.append(ip_packet(source, "255.255.255.255", UDP, udp()))
                packets.append(ip_packet(source, target, 1, b"\0\0" + b"\xff\xff" + b"\0\0\0\0"))
            else:
                inner = ip_packet(source, target, UDP, udp())[40:]
                packets += [
                    ip_packet(source, target, kind, bytes([UDP, 0]) + padding + inner)
                    for kind in (DESTINATION_OPTIONS, HOP_BY_HOP)
                ]
                packets.append(ip_packet(source, target, NO_NEXT, b""))
                solicitation = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + scene.plain.addresses[6].packed
                packets.append(ip_packet(source, target, ICMPV6, solicitation, hops=255))
            for packet in packets:
                send_raw(pod, packet, version)
        scene.cluster.until(lambda: len(capture.outgoing()) >= (2 if version == 4 else 6))


def offenders(pod: Host, version: int, port: int, hops: int) -> list[str]:
    """Send a datagram that goes so far; return who told the pod of an error."""
    level, wanted, limit = (_SOL_IP, _IP_RECVERR, _IP_TTL) if version == 4 else (_SOL_IPV6, _IPV6_RECVERR, _IPV6_HOPS)
    with pod.socket(FAMILY[version], socket.SOCK_DGRAM) as flow:
        flow.setsockopt(level, wanted, 1)
        flow.setsockopt(level, limit, hops)
        flow.sendto(b"x", (SERVICES[version], port))
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                _, notes, _, _ = flow.recvmsg(100, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            # A sock_extended_err of 16 bytes, then the offender's sockaddr (ip(7)).
            at, size = (20, 4) if version == 4 else (24, 16)
            return [
                socket.inet_ntop(FAMILY[version], data[at : at + size])
                for kind, type_, data in notes
                if type_ == wanted
            ]
    return []


def test_errors_reach_the_pod(scene: Scene, version: int) -> None:
    """Of each hop on the way, of the service, and of a hop with a smaller MTU."""
    lab, pod = scene.lab, scene.client
    with scene.leaving_with(TOTO[version]):
        told = [offenders(pod, version, 53, hops) for hops in (1, 2, 3)]
        assert all(told), told
        assert told[2] == [str(lab.gateway.addresses[version])]
        assert offenders(pod, version, 9, 64) == [SERVICES[version]], "its port is closed"
        lab.gateway.ip("link set eth1 mtu 1300")
        try:
            ping = ["ping", "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", "1320", SERVICES[version]]
            said = pod.run(ping, check=False)
            assert "1300" in said.stdout + said.stderr
        finally:
            lab.gateway.ip("link set eth1 mtu 1500")


def test_errors_about_answers_do_not_leak(scene: Scene, version: int) -> None:
    """Of the pod whose port is closed by now, and of the nodes on the way back."""
    lab, pod = scene.lab, scene.client
    port = 8100 + version
    with lab.services.socket(FAMILY[version], socket.SOCK_DGRAM) as door:
        door.bind((SERVICES[version], port))
        door.settimeout(2)
        hop_limit = (_SOL_IP, _IP_TTL) if version == 4 else (_SOL_IPV6, _IPV6_HOPS)
        with scene.leaving_with(TOTO[version]) as capture:
            with pod.socket(FAMILY[version], socket.SOCK_DGRAM) as flow:
                flow.connect((SERVICES[version], port))
                flow.send(b"x")
                _, peer = door.recvfrom(100)
                capture.clear()
                for hops in (2, 3):
                    door.setsockopt(*hop_limit, hops)
                    door.sendto(b"late", peer)
                time.sleep(0.3)
            door.setsockopt(*hop_limit, 64)
            unreachable = {4: 3, 6: 1}[version]
            for _ in range(2):
                door.sendto(b"late", peer)
                scene.cluster.until(lambda: any(p.icmp_type == unreachable for p in capture.outgoing()))


@pytest.mark.parametrize(
    ("harm", "look", "sign"),
    [
        ("delete table inet egress_node", "list tables", "inet egress_node"),
        ("flush table inet egress_node", "list table inet egress_node", "goto restore_path{version}"),
        ("flush set inet egress_node local_pods{version}", "list set inet egress_node local_pods{version}", "elements"),
    ],
)
def test_tables_that_somebody_changes_come_back(scene: Scene, version: int, harm: str, look: str, sign: str) -> None:
    node, flow = scene.lab.nodes[0], Flow(scene.client, version)
    scene.cluster.until(partial(flow.has, TOTO[version]))
    looking = ["nft", *look.format(version=version).split()]
    assert sign.format(version=version) in node.run(looking).stdout, "positive control"
    node.nft(harm.format(version=version))
    took = scene.cluster.until(lambda: sign.format(version=version) in node.run(looking, check=False).stdout)
    assert took < 2, "it is heard, not found out by the next look"
    scene.cluster.until(partial(flow.has, TOTO[version]))
    with pytest.raises(NoReply):
        scene.cluster.source_of(scene.nobody, SERVICES[version], 0.2)
