"""Reboots, and one thing after another under traffic: never a wrong source, and in the end everything works."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from functools import partial

import pytest

from egress_router.egressip.node.guard import guard_script
from lab import LAN, PODS, Host, Lab, NoReply, Packet
from tests.egressip.kernel.egress_cluster import (
    FIRST,
    FIRST6,
    SECOND,
    SECOND6,
    SERVICE,
    SERVICE6,
    WORLDS,
    EgressCluster,
    World,
    one_client,
    talking,
)
from tests.egressip.kernel.egress_scene import Flow

pytestmark = pytest.mark.root


def wipe(node: Host) -> None:
    """Leave of the agent's work what a reboot leaves: nothing."""
    node.nft("delete table inet egress_node\ndelete table arp egress_node")
    node.ip("link delete egressvx0")
    for version in (4, 6):
        for line in node.ip(f"-{version} rule show").splitlines():
            if "proto 147" in line:
                node.ip(f"-{version} rule delete lookup {line.split('lookup ')[1].split()[0]}")
    for address in (FIRST, SECOND):
        if address in node.ip("-4 addr show dev eth0"):
            node.ip(f"addr delete {address}/32 dev eth0")
    node.run(["conntrack", "-F"])


def test_a_rebooted_holder_is_used_when_its_translations_stand(two_holders: EgressCluster) -> None:
    cluster = two_holders
    lab = cluster.lab
    client, first, second, node = one_client(cluster)
    with lab.capture() as capture, talking(partial(cluster.source_of, client, timeout=0.05)) as heard:
        lab.unplug(node)
        cluster.until(lambda: bool(heard) and heard[-1][1] == second)
        cluster.agents[node.name].kill()
        cluster.agents[node.name].wait()
        wipe(node)
        lab.plug(node)
        time.sleep(1.5)
        assert cluster.ask(lab.nodes[0])["holders"][node.name] == "down", "its kernel answers, its agent does not"
        assert heard[-1][1] == second
        cluster.start(node)
        cluster.until(lambda: heard[-1][1] == first)
        time.sleep(0.2)
        assert capture.outgoing()
        assert not capture.leaks(allowed={FIRST, SECOND})


def test_a_node_that_boots_lets_no_pod_out_before_its_agent_stands(two_holders: EgressCluster) -> None:
    cluster = two_holders
    lab = cluster.lab
    node = lab.nodes[0]
    cluster.namespace("other")
    client, stranger = cluster.pod("client", "toto", 0), cluster.pod("stranger", "other", 0)
    neighbour = cluster.pod("neighbour", "other", 1)
    lab.echo(str(neighbour.addresses[4]), tcp=80, host=neighbour)
    own = {str(address) for address in node.addresses.values()}
    assert cluster.source_of(client) in own, "positive control: without a guard it leaves with the node's address"
    flows = [Flow(pod, 4) for pod in (client, cluster.pod("near", "toto", 1))]
    assert all(flow.source() for flow in flows)
    script = guard_script((*LAN.values(), *PODS.values()))
    node.nft(script)
    with lab.capture() as capture, talking(partial(cluster.source_of, client, timeout=0.05)) as heard:
        with pytest.raises(NoReply):
            lab.tcp(client, SERVICE6, 80, timeout=0.3)
        assert lab.tcp(client, neighbour.addresses[4], 80), "inside the cluster all works"
        assert not capture.outgoing()
        cluster.start()
        cluster.until(lambda: heard[-1][1] in (FIRST, SECOND))
        assert "egress_guard" not in node.run(["nft", "list", "tables"]).stdout
        for flow in flows:
            cluster.until(lambda flow=flow: flow.source() in (FIRST, SECOND))  # type: ignore[misc]
        assert not capture.leaks(allowed={FIRST, SECOND})
    assert cluster.source_of(stranger) in own
    node.nft(script)
    cluster.until(lambda: "egress_guard" not in node.run(["nft", "list", "tables"]).stdout)
    cluster.until(lambda: cluster.source_of(stranger, timeout=0.2) in own)


@pytest.mark.parametrize(("world", "seed"), list(zip(WORLDS, (1, 2), strict=True)), ids=str, indirect=["world"])
def test_one_thing_after_another(two_holders: EgressCluster, world: World, seed: int) -> None:
    cluster = two_holders
    lab = cluster.lab
    rng = random.Random(seed)
    first, second, service = (FIRST, SECOND, SERVICE) if world.underlay == 4 else (FIRST6, SECOND6, SERVICE6)
    cluster.namespace("toto", first, second)
    cluster.holds(lab.nodes[1], first)
    cluster.holds(lab.nodes[2], second)
    clients = [cluster.pod(f"client{number}", "toto", number) for number in range(3)]
    cluster.start()
    cluster.settle()
    unplugged: set[int] = set()

    def cut() -> None:
        number = rng.choice([1, 2])
        (lab.plug if number in unplugged else lab.unplug)(lab.nodes[number])
        unplugged.symmetric_difference_update({number})

    def kill() -> None:
        node = rng.choice(lab.nodes)
        cluster.agents[node.name].kill()
        cluster.agents[node.name].wait()
        cluster.start(node)

    def swap() -> None:
        addresses = [first, second]
        rng.shuffle(addresses)
        for node, address in zip(rng.sample(lab.nodes, 2), addresses, strict=True):
            for other in lab.nodes:
                if other is not node:
                    cluster.holds(other, *(set(holdings[other.name]) - {address}))
                    holdings[other.name].discard(address)
            holdings[node.name].add(address)
            cluster.holds(node, *sorted(holdings[node.name]))

    def conflict() -> None:
        cluster.namespace("rival", *rng.sample([first, second], rng.randint(0, 2)))

    def drain() -> None:
        cluster.ask(rng.choice(lab.nodes), rng.choice(["drain", "undrain"]))

    holdings: dict[str, set[str]] = {node.name: set() for node in lab.nodes}
    holdings[lab.nodes[1].name].add(first)
    holdings[lab.nodes[2].name].add(second)
    with lab.capture() as capture, ExitStack() as stack:
        for client in clients:
            stack.enter_context(talking(partial(cluster.source_of, client, service, timeout=0.03)))
        for _ in range(12):
            action = rng.choice([cut, kill, swap, conflict, drain])
            if action is drain:
                cluster.until(lambda: all(cluster.ask(node) for node in lab.nodes))
            action()
            time.sleep(rng.random())
        for number in sorted(unplugged):
            lab.plug(lab.nodes[number])
        cluster.namespace("rival")
        for node in lab.nodes:
            cluster.until(partial(asked, cluster, node, "undrain"))
        cluster.settle(timeout=30)
        for client in clients:
            cluster.until(lambda client=client: cluster.source_of(client, service, timeout=0.2) in (first, second))  # type: ignore[misc]
        assert capture.outgoing()
        leaks = [packet for packet in capture.leaks(allowed={first, second}) if not from_a_node(lab, packet)]
        assert not leaks


def from_a_node(lab: Lab, packet: Packet) -> bool:
    """A node that gave an address away may tell the sender of a late answer so: unreachable, redirect."""
    own = {address for node in lab.nodes for address in node.addresses.values()}
    return packet.icmp_type in ((3, 5) if packet.family == 4 else (1, 137)) and packet.src in own


def asked(cluster: EgressCluster, node: Host, word: str) -> bool:
    return bool(cluster.ask(node, word))
