"""On a node that routes multicast: what pods with egress IPs send to groups does not leave with another source."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from lab import Host
from tests.egressip.kernel.egress_scene import FAMILY, UDP, Scene, ip_packet, send_raw, udp

pytestmark = [pytest.mark.root, pytest.mark.parametrize("version", [4, 6])]

GROUPS = {4: "224.0.1.7", 6: "ff0e::7"}
#: linux/mroute.h and linux/mroute6.h
_INIT, _ADD_INTERFACE, _ADD_ROUTE, _BY_INDEX = 200, 202, 204, 8
_IGMP, _ICMPV6 = 2, 58


def index(node: Host, interface: str) -> int:
    return int(node.ip(f"-o link show dev {interface}").split(":")[0])


@contextmanager
def multicast_routes(node: Host, pods: list[Host], version: int) -> Iterator[None]:
    """Have the node's kernel route what these pods send to the group out by eth0, while it lasts."""
    source = {pod: ip_address(str(pod.addresses[version])) for pod in pods}
    found = {pod: re.findall(r" dev (\S+)", node.ip(f"-{version} route get {source[pod]}"))[0] for pod in pods}
    interfaces = ["eth0", *sorted(set(found.values()))]
    level, protocol = (0, _IGMP) if version == 4 else (41, _ICMPV6)
    with node.socket(FAMILY[version], socket.SOCK_RAW, protocol) as router:
        router.setsockopt(level, _INIT, 1)
        for number, interface in enumerate(interfaces):
            at = index(node, interface)
            entry = (
                struct.pack("=HBBIi4x", number, _BY_INDEX, 1, 0, at)
                if version == 4
                else struct.pack("=HBBHxxI", number, 0, 1, at, 0)
            )
            router.setsockopt(level, _ADD_INTERFACE, entry)
        for pod in pods:
            ends = source[pod].packed, ip_address(GROUPS[version]).packed
            parent = interfaces.index(found[pod])
            if version == 4:
                route = struct.pack("=4s4sH32s2x16x", *ends, parent, b"\1" + bytes(31))
            else:
                addresses = b"".join(struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, end, 0) for end in ends)
                route = addresses + struct.pack("=H2xI28x", parent, 1)
            router.setsockopt(level, _ADD_ROUTE, route)
        yield


def test_groups_outside_get_nothing_from_pods_with_egress_ips(scene: Scene, version: int) -> None:
    group = ip_address(GROUPS[version])
    pods = [scene.plain, scene.client]
    before = scene.dropped(0, "multicast")

    def send(pod: Host) -> None:
        packet = ip_packet(str(pod.addresses[version]), GROUPS[version], UDP, udp())
        send_raw(pod, packet, version)

    with multicast_routes(scene.lab.nodes[0], pods, version), scene.lab.capture() as capture:

        def arrived() -> int:
            return sum(packet.dst == group for packet in capture.received())

        send(scene.plain)
        scene.cluster.until(lambda: arrived() == 1)
        assert scene.dropped(0, "multicast") == before
        for _ in range(3):
            send(scene.client)
        scene.cluster.until(lambda: scene.dropped(0, "multicast") == before + 3)
        send(scene.plain)
        scene.cluster.until(lambda: arrived() >= 2)
        assert arrived() == 2, "nothing of the pod with egress IPs was before it"
