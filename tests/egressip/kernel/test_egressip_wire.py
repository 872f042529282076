"""What agents send and leave alone: claims, the tunnel's size and its door, answers, traffic inside the cluster."""

from __future__ import annotations

import time
from ipaddress import ip_address

import pytest

from lab import NoReply
from tests.egressip.kernel.egress_cluster import FIRST, FIRST6, SECOND, SERVICE, SERVICE6, WORLDS, EgressCluster, World

pytestmark = pytest.mark.root


@pytest.mark.parametrize("world", WORLDS[:1], ids=str)
def test_an_address_is_probed_then_announced_and_answered_in_one_place(two_holders: EgressCluster) -> None:
    cluster = two_holders
    lab = cluster.lab
    holder = lab.nodes[1]
    cluster.namespace("toto", FIRST, FIRST6)
    cluster.holds(holder, FIRST, FIRST6)
    with lab.capture() as capture:
        cluster.start()
        cluster.settle()
        time.sleep(2.2)
        heard = [p for p in capture.packets if p.proto == "arp" and p.dst == ip_address(FIRST)]
        probes = [p.time for p in heard if p.src == ip_address("0.0.0.0")]
        announcements = [p.time for p in heard if p.src == ip_address(FIRST)]
        assert len(probes) == 3
        assert len(announcements) >= 3, "a neighbour may miss the first"
        assert max(probes) < min(announcements)
        advertised = [p for p in capture.packets if p.icmp_type == 136 and p.target == ip_address(FIRST6)]
        solicited = [p for p in capture.packets if p.icmp_type == 135 and p.src == ip_address("::")]
        assert max(p.time for p in solicited) < min(p.time for p in advertised)
        assert len(advertised) >= 3
        capture.clear()
        assert lab.gateway.run(["arping", "-c", "2", "-w", "2", "-I", "eth0", FIRST]).returncode == 0
        assert {str(mac) for mac in capture.owners(FIRST)} == {holder.mac("eth0")}
    pod = cluster.pod("pod", "toto", 1)
    asking = ["arping", "-c", "2", "-w", "1", "-f", "-I", "eth0"]
    assert pod.run([*asking, str(holder.addresses[4])], check=False).returncode == 0, "positive control"
    assert pod.run([*asking, FIRST], check=False).returncode != 0, "it is answered on the outside interface only"
    shown = holder.ip("-4 addr show dev eth0")
    assert f"inet {FIRST}/32" in shown
    assert "eth0:egress" in shown
    assert "deprecated" in shown


def test_answers_and_traffic_inside_the_cluster_are_not_touched(two_holders: EgressCluster) -> None:
    cluster = two_holders
    lab = cluster.lab
    client, neighbour = cluster.pod("client", "toto", 0), cluster.pod("neighbour", "toto", 1)
    for pod in (client, neighbour):
        lab.echo(str(pod.addresses[4]), tcp=80, host=pod)
    lab.gateway.ip(f"route add {client.addresses[4]} via {lab.nodes[0].addresses[4]}")
    cluster.start()
    cluster.settle()
    assert cluster.source_of(client) in (FIRST, SECOND), "positive control"
    assert lab.tcp(client, neighbour.addresses[4], 80).split()[0] == str(client.addresses[4])
    assert lab.tcp(lab.nodes[1], client.addresses[4], 80)
    # The reply goes where the connection came from, with the pod's own address; else the service would refuse it.
    assert lab.tcp(lab.services, client.addresses[4], 80).split()[0] == SERVICE


def test_the_tunnel_has_its_size_and_passes_what_is_translated(two_holders: EgressCluster, world: World) -> None:
    cluster = two_holders
    lab = cluster.lab
    node, holder = lab.nodes[:2]
    cluster.namespace("toto", FIRST, FIRST6)
    cluster.holds(holder, FIRST, FIRST6)
    cluster.holds(lab.nodes[2])
    cluster.namespace("other")
    client, stranger = cluster.pod("client", "toto", 0), cluster.pod("stranger", "other", 0)
    cluster.start()
    cluster.settle()
    mtu = 1450 if world.underlay == 4 else 1430
    told = client.run(["ping", "-c", "2", "-W", "1", "-M", "do", "-s", "1472", SERVICE], check=False)
    assert f"mtu = {mtu}" in told.stdout + told.stderr or f"mtu={mtu}" in told.stdout + told.stderr
    for service, size in ((SERVICE, "1472"), (SERVICE6, "1452")):
        large = ["ping", "-c", "4", "-i", "0.2", "-W", "1", "-s", size, service]
        assert "bytes from" in client.run(large, check=False).stdout
    table = (
        next(line for line in node.ip("rule show").splitlines() if "proto 147" in line).split("lookup ")[1].split()[0]
    )
    with lab.capture() as capture:
        assert cluster.source_of(stranger) == str(node.addresses[4]), "positive control"
        capture.clear()
        node.ip(f"rule add from {stranger.addresses[4]} lookup {table} priority 80")
        with pytest.raises(NoReply):
            cluster.source_of(stranger, timeout=0.5)
        assert not capture.outgoing()
    assert cluster.ask(holder)["dropped_packets"]["tunnel_untranslated"] > 0
