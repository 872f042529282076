"""The external LAN cannot get in; replies and ICMP errors do, so that the path MTU is found."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import closing, suppress
from subprocess import DEVNULL

import pytest

from lab import Capture, Host, Lab, NoReply
from lab.addressing import Address, parse
from lab.cni import NODE_MAC, POINT_TO_POINT
from tests.redirect.kernel.router import ALLOWED, SOURCE4, SOURCE6, Router
from tests.redirect.kernel.traffic import Watch

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n53 udp 203.0.113.25\n80 tcp 2001:db8:113::25\n53 udp 2001:db8:113::25\n"
SOURCES = {4: SOURCE4, 6: SOURCE6}
SERVERS = {4: "203.0.113.25", 6: "2001:db8:113::25"}
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2


def serve(lab: Lab) -> None:
    for server in SERVERS.values():
        lab.echo(server, tcp=[80], udp=[53])


def attack(machine: Host, targets: list[Address], ports: tuple[int, ...]) -> None:
    """Connect, send and ping, everything at once, and wait a moment for answers."""
    pings = [machine.popen(["ping", "-q", "-c", "1", "-W", "1", str(target)], stdout=DEVNULL) for target in targets]
    opened = []
    for target in targets:
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                opened.append(machine.socket(AF[target.version], kind))
                opened[-1].setblocking(False)
                with suppress(BlockingIOError):
                    opened[-1].connect((str(target), port))
                if kind == socket.SOCK_DGRAM:
                    opened[-1].send(b"hello")
    for ping in pings:
        ping.wait(5)
    for item in opened:
        item.close()


def test_nobody_outside_gets_in(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES + "203.0.113.26\n2001:db8:113::26\n")
    pod, other = router.host, lab.pod("other", node=0)
    stranger = lab.machine("stranger", "192.0.2.99")
    for family in (4, 6):
        for host in (pod, other):
            lab.echo(host.addresses[family], tcp=[7000], udp=[7000], host=host)
    # Positive control: an ordinary address on the same macvlan is reached from the LAN.
    pod.ip("link set macvlan0 up")
    pod.ip("addr add 192.0.2.46/24 dev macvlan0")
    with closing(lab.echo(SOURCE4, tcp=[7001], host=pod)):
        assert lab.tcp(stranger, SOURCE4, 7001).startswith("192.0.2.99")
    pod.ip("addr del 192.0.2.46/24 dev macvlan0")
    assert lab.tcp(router.client, pod.addresses[4], 7000)

    router.init()
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(80, 6).startswith(SOURCE6)
    targets = [parse(source) for source in SOURCES.values()]
    # The pod's own address, another pod's and a service's, by static routes through the macvlan.
    for family, length in ((4, 32), (6, 128)):
        lab.echo(SOURCES[family], tcp=[7000], udp=[7000], host=pod)
        stranger.ip(f"-{family} neigh replace {SOURCES[family]} lladdr {router.macvlan_mac} dev eth0")
        for target in (pod.addresses[family], other.addresses[family], parse(SERVERS[family])):
            stranger.ip(f"-{family} route replace {target}/{length} via {SOURCES[family]} dev eth0 onlink")
            targets.append(target)
    with lab.capture(other) as inside, lab.capture(pod.node) as node, lab.capture(stranger) as answers:
        attack(stranger, targets, (7000, 80, 53))
        for address in (pod.addresses[4], other.addresses[4], parse("169.254.1.1"), parse(SOURCE4)):
            raw(stranger, who_has(stranger, address))
        time.sleep(0.2)
    # The tries reached the macvlan, and ended there.
    for target in targets:
        tried = {p.proto for p in node.packets if p.dst_mac == router.macvlan_mac and p.dst == target}
        assert tried >= {"tcp", "udp"}
    assert [p for p in inside.packets if p.src in stranger.addresses.values()] == []
    back = [p for p in answers.received() if p.src_mac == router.macvlan_mac]
    assert {p.proto for p in back} <= {"arp", "icmpv6"}
    assert {p.icmp_type for p in back if p.proto == "icmpv6"} <= {135, 136, 143}
    # Nobody answers on the LAN for an address of the cluster side; for its own, the router does.
    assert {p.target for p in answers.received() if p.arp_op == 2} == {parse(SOURCE4)}


def who_has(host: Host, address: Address) -> bytes:
    """An ARP request (RFC 826)."""
    mine = mac(host.mac()) + host.addresses[4].packed
    return (
        b"\xff" * 6
        + mine[:6]
        + b"\x08\x06"
        + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        + mine
        + bytes(6)
        + address.packed
    )


def raw(host: Host, frame: bytes) -> None:
    """Send a frame on the LAN, three times."""
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
        opened.bind(("eth0", 0))
        for _ in range(3):
            opened.send(frame)


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ipv4_frame(to: str, sender: str, source: str, destination: str, icmp: bytes) -> bytes:
    icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0) + addresses
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return mac(to) + mac(sender) + b"\x08\x00" + header + icmp


def ipv6_frame(to: str, sender: str, source: str, destination: str, icmp: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    pseudo = addresses + struct.pack("!II", len(icmp), socket.IPPROTO_ICMPV6)
    icmp = icmp[:2] + struct.pack("!H", checksum(pseudo + icmp)) + icmp[4:]
    header = struct.pack("!IHBB", 6 << 28, len(icmp), socket.IPPROTO_ICMPV6, 255) + addresses
    return mac(to) + mac(sender) + b"\x86\xdd" + header + icmp


def advertisement(sender: str) -> bytes:
    """A router advertisement that offers a default route, a prefix and a smaller MTU (RFC 4861, 4.2)."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(
        socket.AF_INET6, "2001:db8:666::"
    )
    options = struct.pack("!BB6s", 1, 1, mac(sender)) + struct.pack("!BBHI", 5, 1, 0, 1280) + prefix
    return struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + options


def redirects(pod: Host, machine: Host, macvlan: str) -> list[bytes]:
    """ICMP redirects, that seem to come from the gateway, of both families for the way to the servers."""
    me = machine.mac()
    inner4 = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + socket.inet_aton(SOURCE4)
    inner4 += socket.inet_aton(SERVERS[4]) + struct.pack("!HHHH", 1024, 53, 8, 0)
    icmp4 = struct.pack("!BBH4s", 5, 1, 0, socket.inet_aton("192.0.2.99")) + inner4
    target, destination = "2001:db8:2::99", SERVERS[6]
    icmp6 = struct.pack("!BBHI", 137, 0, 0, 0) + b"".join(
        socket.inet_pton(socket.AF_INET6, item) for item in (target, destination)
    )
    icmp6 += struct.pack("!BB6s", 2, 1, mac(me))
    return [
        ipv4_frame(macvlan, me, "192.0.2.1", SOURCE4, icmp4),
        ipv6_frame(macvlan, me, "fe80::1", SOURCE6, icmp6),
        ipv6_frame(macvlan, me, "2001:db8:2::1", SOURCE6, icmp6),
    ]


@pytest.mark.parametrize("mode", ["init", "http-proxy"])
def test_routers_and_redirects_from_outside_change_nothing(lab: Lab, backend: str, mode: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    pod, stranger = router.host, lab.machine("stranger", "192.0.2.99")
    for key in ("all", "macvlan0"):
        pod.sysctl(f"net.ipv4.conf.{key}.accept_redirects", 1)
        pod.sysctl(f"net.ipv4.conf.{key}.secure_redirects", 0)
        pod.sysctl(f"net.ipv6.conf.{key}.accept_redirects", 1)
        pod.sysctl(f"net.ipv6.conf.{key}.accept_ra", 2)
    everybody = ipv6_frame("33:33:00:00:00:01", stranger.mac(), "fe80::1", "ff02::1", advertisement(stranger.mac()))
    # Positive control: an ordinary interface, set like this, takes the advertisement.
    pod.ip("link set macvlan0 up")

    def advertised() -> bool:
        raw(stranger, everybody)
        return "2001:db8:666" in pod.ip("-6 addr")

    wait_for(advertised)
    pod.ip("link set macvlan0 down")
    pod.ip("-6 addr flush dev macvlan0")

    router.init(EGRESS_ROUTER_MODE=mode, EGRESS_DESTINATION=RULES if mode == "init" else None)
    before = router.state()
    with lab.capture(pod, "macvlan0") as capture:
        for frame in (everybody, *redirects(pod, stranger, router.macvlan_mac or "")):
            raw(stranger, frame)
        for family in (4, 6):
            assert lab.udp(pod, SERVERS[family], 53).startswith(SOURCES[family])
    assert {134, 5, 137} <= {packet.icmp_type for packet in capture.received()}
    assert router.state() == before
    assert "192.0.2.99" not in pod.ip(f"route get {SERVERS[4]}")
    assert "::99" not in pod.ip(f"-6 route get {SERVERS[6]}")


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


def dont_fragment(host: Host, family: int) -> socket.socket:
    opened = host.socket(AF[family], socket.SOCK_DGRAM)
    opened.settimeout(2)
    if family == 4:
        opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
    return opened


def too_long(opened: socket.socket) -> bool:
    """Whether a datagram of 1400 bytes is (by now) known to be too long for the path."""
    try:
        opened.send(b"x" * 1400)
        opened.recv(2000)
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def test_the_path_mtu_is_found_wherever_it_is_small(make_lab: Callable[..., Lab], shape: str, backend: str) -> None:
    lab = make_lab(nodes=2, shape=shape)
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    pod, clients = router.host, (router.client, lab.pod("far", node=1))
    router.init()
    watch = Watch(lab, pod, ALLOWED)
    places = {
        "behind the gateway": (lab.gateway, "eth1"),
        "on the egress side": (pod, "macvlan0"),
    }
    for what, (host, interface) in places.items():
        host.ip(f"link set {interface} mtu 1300")
        for client in clients:
            for family in (4, 6):
                address = str(pod.addresses[family])
                with dont_fragment(client, family) as opened:
                    opened.connect((address, 53))
                    assert too_long(opened) or too_long(opened), f"{what}: {client.name} is not told, IPv{family}"
                    opened.send(b"x" * 1200)
                    assert opened.recv(2000).decode().startswith(SOURCES[family])
                # More than one segment each way.
                assert len(lab.tcp(client, address, 80, payload="x" * 20_000)) > 20_000
                client.ip(f"-{family} route flush cache")
        pod.ip("route flush cache")
        host.ip(f"link set {interface} mtu 1500")
    # No watch from here on: a capture shares memory with fragments, and the kernel rewrites those in place.
    watch.assert_none("path MTU")
    # An answer that is too long for the cluster: the server is told, and sends the next one in pieces.
    pod.ip("link set eth0 mtu 1300")
    for client in clients:
        for family in (4, 6):
            with pytest.raises(NoReply):
                lab.udp(client, pod.addresses[family], 53, "x" * 1240, timeout=0.5)
            assert lab.udp(client, pod.addresses[family], 53, "x" * 1240).startswith(SOURCES[family])
            lab.services.ip(f"-{family} route flush cache")


def test_the_maximum_segment_size_fits_both_ways(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    pod = router.host
    router.init()
    for interface in ("macvlan0", "eth0"):
        pod.ip(f"link set {interface} mtu 1300")
        for family, expected in ((4, 1260), (6, 1240)):
            with lab.capture() as out, lab.capture(pod) as back:
                assert router.tcp(80, family)
            (request,) = {p.mss for p in out.received() if p.tcp_flags == "S" and p.family == family}
            (answer,) = {p.mss for p in back.packets if p.tcp_flags == "S." and p.family == family}
            (asked,) = {p.mss for p in back.packets if p.tcp_flags == "S" and p.family == family}
            assert asked == expected + 200  # positive control: the client offered more
            assert min(request or 0, answer or 0) == expected, (interface, family, request, answer)
            assert request == expected if interface == "macvlan0" else answer == expected
        pod.ip(f"link set {interface} mtu 1500")


def test_errors_of_a_connection_come_back(make_lab: Callable[..., Lab], shape: str, backend: str) -> None:
    """Refused, unreachable and the hop limit, as told by servers, the gateway and the router itself."""
    lab = make_lab(nodes=2, shape=shape)
    serve(lab)
    router = Router(lab, backend, rules=RULES + "54 udp 203.0.113.25\n55 udp 2001:db8:113::25\n99 udp 198.18.0.1\n")
    pod, far = router.host, lab.pod("far", node=1)
    router.init()
    lab.gateway.ip("route add prohibit 198.18.0.1/32")
    watch = Watch(lab, pod, ALLOWED)
    for client in (router.client, far):
        for port, family, reason in ((54, 4, "refused"), (55, 6, "refused"), (99, 4, "unreachable")):
            with pytest.raises(NoReply) as told:
                router.udp(port, family, client, timeout=1)
            assert told.value.reason == reason, (client.name, port, told.value)
        nodes = 2 if client is far else int(shape == POINT_TO_POINT)
        for family, exceeded in ((4, 11), (6, 3)):
            with lab.capture(client) as capture, client.socket(AF[family], socket.SOCK_DGRAM) as opened:
                level, option = (0, socket.IP_TTL) if family == 4 else (41, socket.IPV6_UNICAST_HOPS)
                opened.setsockopt(level, option, nodes + 1)
                opened.sendto(b"x", (str(pod.addresses[family]), 53))
                wait_for(lambda: told_by(capture, exceeded, pod.addresses[family]))  # noqa: B023 - called at once
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(80, 6).startswith(SOURCE6)
    watch.assert_none("errors")


def told_by(capture: Capture, icmp_type: int, host: object) -> bool:
    return any(packet.icmp_type == icmp_type and packet.src == host for packet in capture.received())


def late(lab: Lab, client: Host, pod: Host, port: int) -> bytes:
    """A TCP acknowledgement from ``port`` to port 80 of a pod, far outside of any window."""
    tcp = struct.pack("!HHIIBBHHH", port, 80, 0x10, 0x20, 0x50, 0x10, 100, 0, 0)
    addresses = client.addresses[4].packed + pod.addresses[4].packed
    tcp = tcp[:16] + struct.pack("!H", checksum(addresses + struct.pack("!HH", 6, len(tcp)) + tcp)) + tcp[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + addresses
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return mac(NODE_MAC if lab.shape == POINT_TO_POINT else pod.mac()) + mac(client.mac()) + b"\x08\x00" + header + tcp


def test_a_late_packet_does_not_end_its_connection(lab: Lab, backend: str) -> None:
    """What is outside of the window is not translated; a pod that answered it itself would send a reset."""
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    pod, client, other = router.host, router.client, lab.pod("other", node=0)
    router.init()
    # Positive control: an ordinary pod does answer.
    with lab.capture(client) as capture:
        raw(client, late(lab, client, other, 40000))
        wait_for(lambda: any("R" in packet.tcp_flags for packet in capture.received()))
    with client.socket(socket.AF_INET) as opened, lab.capture(client) as capture:
        opened.settimeout(2)
        opened.connect((str(pod.addresses[4]), 80))
        opened.send(b"hello")
        assert opened.recv(100)
        raw(client, late(lab, client, pod, opened.getsockname()[1]))
        opened.send(b"more")
        assert opened.recv(100) == b"more"
        time.sleep(0.1)
    assert [packet for packet in capture.received() if "R" in packet.tcp_flags] == []
