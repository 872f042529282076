"""What a change of a node's object or of its power does to claims and to connections."""

from __future__ import annotations

from functools import partial

import pytest

from lab import Host
from tests.egressip.kernel.egress_cluster import FIRST, SECOND, SERVICE, EgressCluster, World, one_client

pytestmark = pytest.mark.root


def test_a_changed_host_ip_moves_the_claim(two_holders: EgressCluster, world: World) -> None:
    """To nobody while no machine has the new address; to the machine that has it, with a tunnel of that address."""
    cluster = two_holders
    lab = cluster.lab
    node = lab.nodes[1]
    other = {4: "192.0.2.22", 6: "2001:db8:2::22"}[world.underlay]
    cluster.namespace("toto", FIRST)
    cluster.holds(lab.nodes[2])
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    with lab.capture() as capture:
        assert cluster.source_of(client) == FIRST
        cluster.change("HostSubnet", node.name, hostIP=other)
        cluster.until(lambda: FIRST not in node.ip("-4 addr show dev eth0"))
        assert f"{other} is not an address of this machine" in str(cluster.ask(node)["problems"])
        node.add_addresses([other])
        cluster.namespace("other")  # a change is looked at now, an address that comes within five seconds
        assert cluster.agents[node.name].wait(10) == 75
        cluster.start(node)
        cluster.until(lambda: FIRST in node.ip("-4 addr show dev eth0"))
        cluster.until(lambda: cluster.source_of(client, timeout=0.2) == FIRST)
        assert f"local {other}" in node.ip("-d link show egressvx0")
        assert not capture.leaks(allowed={FIRST})


def test_connections_through_a_dead_holder_end_at_once(two_holders: EgressCluster) -> None:
    """They cannot go on with another source; the client hears it and connects anew."""
    cluster = two_holders
    lab = cluster.lab
    client, first, second, holder = one_client(cluster)
    with client.socket(2, 1) as stream, lab.capture() as capture:
        stream.settimeout(5)
        stream.connect((SERVICE, 80))
        stream.sendall(b"hello")
        assert stream.recv(200).decode().split()[0] == first
        tracked = ["conntrack", "-L", "-p", "tcp", "--orig-src", str(client.addresses[4])]
        assert "dport=80" in lab.nodes[0].run(tracked).stdout, "positive control"
        lab.unplug(holder)
        cluster.until(partial(uses, cluster, client, second))
        cluster.until(lambda: "dport=80" not in lab.nodes[0].run(tracked).stdout)
        stream.sendall(b"still here?")
        with pytest.raises(ConnectionResetError):
            stream.recv(200)
        assert not capture.leaks(allowed={FIRST, SECOND})


def uses(cluster: EgressCluster, client: Host, source: str) -> bool:
    return cluster.source_of(client, timeout=0.1) == source
