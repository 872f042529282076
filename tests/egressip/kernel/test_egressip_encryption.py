"""The tunnel through WireGuard: nothing goes in clear, nobody without a key gets in, and keys change."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from egress_router.egressip.node.state import ENCRYPTED, TUNNEL_PORT, WIREGUARD_PORT
from lab import Host
from tests.egressip.kernel.egress_cluster import EgressCluster, talking
from tests.egressip.kernel.egress_scene import RIVAL, SERVICES, TOTO, UDP, in_tunnel, ip_packet, send_raw, udp
from tests.support.kernels import on_a_distribution_kernel

pytestmark = pytest.mark.root

COUNTERS = """
table inet seen {{
    chain one {{
        type filter hook input priority raw; policy accept;
        iifname "eth0" udp dport {clear} counter comment "clear"
        iifname "eth0" udp dport {encrypted} counter comment "encrypted"
    }}
}}
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("k" * 32)
    return path


#: More than goes into a packet, many times.
LONG = "x" * 100_000


def begin(cluster: EgressCluster, keys: Path) -> Host:
    """Start agents that encrypt; return a pod on the first node. The others hold its addresses, of both families."""
    lab = cluster.lab
    for node in lab.nodes:
        node.nft(COUNTERS.format(clear=TUNNEL_PORT, encrypted=WIREGUARD_PORT))
    cluster.namespace("toto", *TOTO.values(), *RIVAL.values())
    cluster.holds(lab.nodes[1], *TOTO.values())
    cluster.holds(lab.nodes[2], *RIVAL.values())
    client = cluster.pod("client", "toto", 0)
    cluster.start(tunnel_encryption="wireguard", agent_keys=str(keys))
    cluster.settle(timeout=60)
    return client


def way(cluster: EgressCluster, client: Host, version: int) -> tuple[str, Host]:
    """Return the egress IP that a pod's packets of a family leave with, and the node that holds it."""
    used = cluster.source_of(client, SERVICES[version])
    assert used in (TOTO[version], RIVAL[version])
    return used, cluster.lab.nodes[1 if used == TOTO[version] else 2]


def seen(node: Host, what: str) -> int:
    (line,) = (line for line in node.run(["nft", "list", "table", "inet", "seen"]).stdout.splitlines() if what in line)
    words = line.split()
    return int(words[words.index("packets") + 1])


@pytest.mark.skipif(on_a_distribution_kernel(), reason="this kernel has WireGuard")
def test_a_kernel_without_it_is_told_of(two_holders: EgressCluster, keys: Path) -> None:
    node = two_holders.lab.nodes[0]
    two_holders.start(node, tunnel_encryption="wireguard", agent_keys=str(keys))
    assert two_holders.agents[node.name].wait(20) == 69, two_holders.text()
    assert "this kernel has no WireGuard" in two_holders.logs[node.name].read_text(), two_holders.text()


@pytest.mark.distribution_kernel
@pytest.mark.timeout(600)
def test_nothing_goes_in_clear_and_keys_change(two_holders: EgressCluster, keys: Path) -> None:
    cluster = two_holders
    lab, underlay = cluster.lab, cluster.world.underlay
    client = begin(cluster, keys)
    stranger = lab.machine("stranger", "192.0.2.99", "2001:db8:2::99")
    with lab.capture() as capture:
        for version, service in SERVICES.items():
            first, holder = way(cluster, client, version)
            before = seen(holder, "encrypted")
            for _ in range(20):
                assert cluster.source_of(client, service) == first
            assert lab.tcp(client, service, 80, LONG, timeout=20).endswith(LONG), "packets of full size pass"
            assert seen(holder, "encrypted") >= before + 20 + len(LONG) // 1500, "positive control"
        assert [seen(node, "clear") for node in lab.nodes] == [0, 0, 0]

        # A machine that sends with the address of a node.
        for version, service in SERVICES.items():
            first, holder = way(cluster, client, version)
            source, target = (str(node.addresses[underlay]) for node in (lab.nodes[0], holder))
            inner = ip_packet(str(client.addresses[version]), service, UDP, udp())
            before = cluster.ask(holder)["dropped_packets"]["tunnel_stranger"]
            datagram = in_tunnel(inner, target, version)
            head = (5000).to_bytes(2) + TUNNEL_PORT.to_bytes(2) + (8 + len(datagram)).to_bytes(2) + b"\0\0"
            send_raw(stranger, ip_packet(source, target, UDP, head + datagram), underlay)
            cluster.until(lambda: cluster.ask(holder)["dropped_packets"]["tunnel_stranger"] > before)  # noqa: B023

        # The family that the nodes do not have between them.
        version = 10 - underlay
        agents_end_and_keys_change(cluster, keys, client, version)
        assert sum(seen(node, "clear") for node in lab.nodes) == len(SERVICES), (
            "what the stranger sent, and nothing else"
        )
        assert not capture.leaks(allowed={*TOTO.values(), *RIVAL.values()})


def agents_end_and_keys_change(cluster: EgressCluster, keys: Path, client: Host, version: int) -> None:
    """End agents, the device and a key in turn, while the pod talks."""
    lab = cluster.lab
    first, holder = way(cluster, client, version)
    with talking(partial(cluster.source_of, client, SERVICES[version], timeout=2.0), every=0.05) as heard:
        # An agent that starts again disturbs nothing.
        cluster.until(lambda: bool(heard) and heard[-1][1] == first)
        for node in (lab.nodes[0], holder):
            cluster.agents[node.name].kill()
            cluster.agents[node.name].wait()
            cluster.start(node, tunnel_encryption="wireguard", agent_keys=str(keys))
            cluster.settle(timeout=60)
        assert {source for _, source in heard} == {first}, "nothing is lost"

        # The device is put back, with its peers.
        holder.ip(f"link del {ENCRYPTED}")
        cluster.until(lambda: ENCRYPTED in holder.ip("-br link show"), 60)
        again = len(heard)
        cluster.until(lambda: any(source == first for _, source in heard[again:]), 60)

        # Another key.
        key = cluster.socket_of(holder).with_suffix(".wireguard")
        assert key.stat().st_mode & 0o777 == 0o600
        old = key.read_text()
        cluster.agents[holder.name].kill()
        cluster.agents[holder.name].wait()
        key.unlink()
        begun = time.monotonic()
        cluster.start(holder, tunnel_encryption="wireguard", agent_keys=str(keys))
        cluster.until(lambda: "has another key" in cluster.logs[lab.nodes[0].name].read_text(), 60)
        cluster.settle(timeout=60)
        changed = len(heard)
        cluster.until(lambda: any(source == first for _, source in heard[changed:]), 60)
        print(f"a new key is in use after {time.monotonic() - begun:.1f} s")
        assert key.read_text() != old
