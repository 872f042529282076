"""The tunnel through WireGuard: nothing goes in clear, nobody without a key gets in, and keys change."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from egress_router.egressip.node.state import ENCRYPTED, TUNNEL_PORT, WIREGUARD_PORT
from lab import Host
from tests.egressip.kernel.egress_cluster import FIRST, SECOND, SERVICE, EgressCluster, talking
from tests.egressip.kernel.egress_scene import UDP, in_tunnel, ip_packet, send_raw, udp
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


def begin(cluster: EgressCluster, keys: Path) -> tuple[Host, str, Host]:
    """Start agents that encrypt; return the pod, its egress IP and the holder of that."""
    lab = cluster.lab
    client = cluster.pod("client", "toto", 0)
    for node in lab.nodes:
        node.nft(COUNTERS.format(clear=TUNNEL_PORT, encrypted=WIREGUARD_PORT))
    cluster.start(tunnel_encryption="wireguard", agent_keys=str(keys))
    cluster.settle(timeout=60)
    first = cluster.source_of(client)
    assert first in (FIRST, SECOND)
    return client, first, lab.nodes[1 if first == FIRST else 2]


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
    lab, version = cluster.lab, cluster.world.underlay
    client, first, holder = begin(cluster, keys)
    with lab.capture() as capture:
        for _ in range(20):
            assert cluster.source_of(client) == first
        assert seen(holder, "encrypted") >= 20, "positive control"
        assert [seen(node, "clear") for node in lab.nodes] == [0, 0, 0]

        # A machine that sends with the address of a node.
        stranger = lab.machine("stranger", "192.0.2.99", "2001:db8:2::99")
        source, target = (str(node.addresses[version]) for node in (lab.nodes[0], holder))
        inner = ip_packet(str(client.addresses[4]), SERVICE, UDP, udp())
        before = cluster.ask(holder)["dropped_packets"]["tunnel_stranger"]
        datagram = in_tunnel(inner, target, 4)
        head = (5000).to_bytes(2) + TUNNEL_PORT.to_bytes(2) + (8 + len(datagram)).to_bytes(2) + b"\0\0"
        send_raw(stranger, ip_packet(source, target, UDP, head + datagram), version)
        cluster.until(lambda: cluster.ask(holder)["dropped_packets"]["tunnel_stranger"] > before)

        with talking(partial(cluster.source_of, client, timeout=2.0), every=0.05) as heard:
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
            cluster.until(lambda: bool(holder.ip(f"-br link show dev {ENCRYPTED}")), 60)
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
        assert [seen(node, "clear") for node in lab.nodes if node is not holder] == [0, 0]
        assert not capture.leaks(allowed={FIRST, SECOND})
