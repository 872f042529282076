"""What is for the node itself, what comes by the tunnel, and what belongs to no connection."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import Host
from tests.egressip.kernel.egress_scene import FAMILY, SERVICES, TCP, TOTO, Scene, ip_packet, send_raw

pytestmark = [pytest.mark.root, pytest.mark.parametrize("version", [4, 6])]

#: An address of the first node that is in no network of the cluster.
OWN = {4: "203.0.113.99", 6: "2001:db8:99::99"}
LENGTH = {4: 32, 6: 128}
TOOL = {4: "iptables", 6: "ip6tables"}


@contextmanager
def local_table_last(node: Host, version: int) -> Iterator[None]:
    """Have rules of others come before the addresses of the node, as Cilium does (priority 100 instead of 0)."""
    node.ip(f"-{version} rule add pref 100 lookup local")
    node.ip(f"-{version} rule del pref 0")
    try:
        yield
    finally:
        node.ip(f"-{version} rule add pref 0 lookup local")
        node.ip(f"-{version} rule del pref 100")


def test_an_address_of_the_node_is_not_outside(scene: Scene, version: int) -> None:
    """A cache of names on the node, a virtual address, a second interface."""
    node, lab = scene.lab.nodes[0], scene.lab
    node.ip(f"addr replace {OWN[version]}/{LENGTH[version]} dev lo")
    lab.echo(OWN[version], tcp=[80], udp=53, host=node)
    with scene.leaving_with(TOTO[version]) as capture, local_table_last(node, version):
        for pod in (scene.client, scene.plain):
            for answer in (lab.udp(pod, OWN[version], 53), lab.tcp(pod, OWN[version], 80)):
                assert answer.split()[0] == str(pod.addresses[version])
        assert not capture.outgoing()
        assert scene.cluster.source_of(scene.client, SERVICES[version]) == TOTO[version]


def test_a_cache_of_names_may_be_untracked(scene: Scene, version: int) -> None:
    """As NodeLocal DNSCache has it."""
    node, lab = scene.lab.nodes[0], scene.lab
    node.ip(f"addr replace {OWN[version]}/{LENGTH[version]} dev lo")
    lab.echo(OWN[version], udp=5353, host=node)
    rules = [f"-d {OWN[version]} -p udp", f"-s {OWN[version]} -p udp"]
    before = scene.dropped(0, "no_connection")
    for verb in ("-A", "-D"):
        for chain, rule in zip(("PREROUTING", "OUTPUT"), rules, strict=True):
            node.run([TOOL[version], "-w", "-t", "raw", verb, chain, *rule.split(), "-j", "NOTRACK"])
        if verb == "-A":
            answer = lab.udp(scene.client, OWN[version], 5353)
            assert answer.split()[0] == str(scene.client.addresses[version])
    assert scene.dropped(0, "no_connection") == before
    assert scene.cluster.source_of(scene.client, SERVICES[version]) == TOTO[version]


def test_the_ranges_of_the_objects_are_not_those_of_the_plugin(scene: Scene, version: int) -> None:
    """The holder has the range of the pod's node, as far as the objects tell, or none at all."""
    cluster, nodes = scene.cluster, scene.lab.nodes
    known = [str(pod.addresses[version]) for pod in (scene.client, scene.local)]
    ranges = [scene.subnets[number] for number in range(3)]
    try:
        for wanted in ([ranges[2], ranges[0], ranges[1]], ["", "", ""]):
            for node, subnet in zip(nodes, wanted, strict=True):
                cluster.change("HostSubnet", node.name, subnet=subnet)
            cluster.settle()
            before = [scene.dropped(1, reason) for reason in ("unknown_pod", "no_way")]
            for pod in (scene.client, scene.local):
                cluster.until(lambda pod=pod: cluster.source_of(pod, SERVICES[version]) == TOTO[version])  # type: ignore[misc]
            assert cluster.source_of(scene.plain, SERVICES[version]) == scene.node_address(0, version)
            assert [scene.dropped(1, reason) for reason in ("unknown_pod", "no_way")] == before, known
    finally:
        for node, subnet in zip(nodes, ranges, strict=True):
            cluster.change("HostSubnet", node.name, subnet=subnet)
        cluster.settle()


def segment(source: int, target: int, sequence: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, sequence, 0, 0x50, flags, 1000, 0, 0)


def test_a_segment_out_of_the_window_resets_nothing(scene: Scene, version: int) -> None:
    """The holder's own TCP does not answer it, neither for a pod of its own nor for one of another node."""
    for pod in (scene.client, scene.local):
        with pod.socket(FAMILY[version]) as stream:
            stream.settimeout(3)
            stream.connect((SERVICES[version], 80))
            stream.sendall(b"before\n")
            seen = stream.recv(300).split()
            assert seen[0].decode() == TOTO[version]
            before = scene.dropped(1, "invalid")
            for quarter in range(4):
                late = segment(80, int(seen[1]), quarter << 30, 0x10) + b"x" * 8
                send_raw(scene.lab.services, ip_packet(SERVICES[version], TOTO[version], TCP, late), version)
            scene.cluster.until(lambda n=before: scene.dropped(1, "invalid") > n)  # type: ignore[misc]
            stream.sendall(b"after\n")
            assert b"after" in stream.recv(300)
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
