"""Agents that sign what they tell each other: who has no key, or another one, is not believed."""

from __future__ import annotations

import socket
import time

import pytest

from egress_router.egressip.node.state import PROBE_PORT
from lab import Host
from tests.egressip.kernel.egress_cluster import EgressCluster

pytestmark = pytest.mark.root

ONE, TWO = "1" * 64, "2" * 64


def question(host: Host, to: str) -> bytes:
    with host.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(0.5)
        sender.sendto(b'{"ask": 1, "uses": true}', (to, PROBE_PORT))
        try:
            return sender.recv(1000)
        except TimeoutError:
            return b""


def refused(node: Host, host: str) -> float:
    page = node.run(["curl", "-sg", f"http://{f'[{host}]' if ':' in host else host}:9910/metrics"]).stdout
    found = (line for line in page.splitlines() if line.startswith("egress_router_node_refused_messages_total"))
    return float(next(found).split()[1])


def test_only_who_has_the_key_is_believed(two_holders: EgressCluster) -> None:
    cluster, (near, holder, _) = two_holders, two_holders.lab.nodes
    files = {node.name: cluster.state / f".{node.name}.keys" for node in cluster.lab.nodes}
    client = cluster.pod("client", "toto", 0)
    for node in cluster.lab.nodes:
        files[node.name].write_text(f"{ONE}\nunsigned\n")
        cluster.start(node, agent_keys=str(files[node.name]))
    cluster.settle()
    stranger = cluster.lab.machine("stranger", "192.0.2.99")
    address = str(holder.addresses[cluster.world.underlay])
    assert question(stranger, address), "positive control: as long as a line says so"
    for path in files.values():
        path.write_text(f"{ONE}\n")
    cluster.until(lambda: not question(stranger, address))
    cluster.until(lambda: not cluster.ask(near)["problems"])
    # Another node's word without the key does not count either, whatever its address.
    assert not question(cluster.lab.nodes[2], address)
    files[holder.name].write_text(f"{TWO}\n")
    silent = f"node {holder.name} answers pings, but its agent says nothing"
    cluster.until(lambda: any(silent in text for text in cluster.ask(near)["problems"]))
    assert cluster.source_of(client), "what works goes on"
    cluster.until(lambda: refused(holder, address) > 0)
    for path in files.values():
        path.write_text(f"{TWO}\n{ONE}\n")
    cluster.until(lambda: not cluster.ask(near)["problems"])
    assert cluster.source_of(client)


def test_the_first_key_comes_without_a_gap(two_holders: EgressCluster) -> None:
    """Agents without keys and with them, one after the other: nobody takes another one for silent, nothing is lost."""
    cluster, nodes = two_holders, two_holders.lab.nodes
    files = {node.name: cluster.state / f".{node.name}.keys" for node in nodes}
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    assert cluster.source_of(client)

    def nobody_is_silent() -> None:
        """Each has asked the others as often as makes a silent one known, and what was asked is believed."""
        cluster.settle()
        time.sleep(2.5)
        for node in nodes:
            said = cluster.ask(node)["problems"]
            assert not any("says nothing" in text for text in said), (node.name, said)
        assert cluster.source_of(client)

    for node in nodes:
        files[node.name].write_text(f"unsigned\n{ONE}\n")
        cluster.agents[node.name].terminate()
        cluster.agents[node.name].wait()
        cluster.start(node, agent_keys=str(files[node.name]))
        nobody_is_silent()
    for text in (f"{ONE}\nunsigned\n", f"{ONE}\n"):
        for node in nodes:
            files[node.name].write_text(text)
        nobody_is_silent()
    stranger = cluster.lab.machine("stranger", "192.0.2.99")
    address = str(nodes[1].addresses[cluster.world.underlay])
    cluster.until(lambda: not question(stranger, address))
