"""What an agent needs is checked when it starts: capabilities and programs, no more than it uses."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from lab import Host
from tests.egressip.kernel.egress_cluster import FIRST, FIRST6, SERVICE, SERVICE6, EgressCluster

pytestmark = pytest.mark.root

NEEDED = ("NET_ADMIN", "NET_RAW")
#: A protocol that no part of the kernel knows (RFC 3692, section 2.1).
EXPERIMENT = 253


def with_capabilities(*names: str) -> list[str]:
    """Return the command that runs another one with exactly these capabilities."""
    sets = ",".join(["-all", *(f"+{name.lower()}" for name in names)])
    return ["setpriv", "--bounding-set", sets, "--inh-caps", sets, "--no-new-privs", "--"]


@pytest.mark.parametrize("lacking", NEEDED)
def test_without_a_capability(two_holders: EgressCluster, lacking: str) -> None:
    cluster = two_holders
    node = cluster.lab.nodes[0]
    before = node.run(["nft", "list", "ruleset"]).stdout
    cluster.prefix = with_capabilities(*(name for name in NEEDED if name != lacking))
    cluster.start(node)
    assert cluster.agents[node.name].wait(20) == 77
    text = cluster.text()
    assert f"capabilities.add: [{lacking}]" in text
    assert "Traceback" not in text
    assert node.run(["nft", "list", "ruleset"]).stdout == before
    assert "egressvx0" not in node.ip("link")


def test_these_capabilities_and_nft_are_enough(two_holders: EgressCluster, tmp_path: Path) -> None:
    """An address moves, and the connections of every protocol that left with it end, without any other program."""
    cluster = two_holders
    lab = cluster.lab
    programs = tmp_path / "bin"
    programs.mkdir()
    nft = shutil.which("nft")
    assert nft
    (programs / "nft").symlink_to(nft)
    cluster.prefix = ["env", f"PATH={programs}", shutil.which("setpriv") or "", *with_capabilities(*NEEDED)[1:]]
    cluster.namespace("toto", FIRST, FIRST6)
    cluster.holds(lab.nodes[1], FIRST, FIRST6)
    cluster.holds(lab.nodes[2])
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    assert cluster.source_of(client) == FIRST, "positive control"
    assert cluster.source_of(client, SERVICE6) == FIRST6, "positive control"
    client.run(["ping", "-c", "1", "-W", "1", SERVICE])
    with client.socket(socket.AF_INET, socket.SOCK_RAW, EXPERIMENT) as raw:
        raw.sendto(b"experiment", (SERVICE, 0))
    kinds = {"udp", "icmp", "unknown"}
    cluster.until(lambda: {line.split()[0] for line in tracked(lab.nodes[1], FIRST)} >= kinds)
    assert tracked(lab.nodes[1], FIRST6)
    cluster.holds(lab.nodes[1])
    cluster.holds(lab.nodes[2], FIRST, FIRST6)
    cluster.until(lambda: FIRST not in lab.nodes[1].ip("addr show dev eth0"))
    cluster.until(lambda: not tracked(lab.nodes[1], FIRST) and not tracked(lab.nodes[1], FIRST6))
    cluster.settle()
    assert cluster.source_of(client) == FIRST
    assert cluster.source_of(client, SERVICE6) == FIRST6
    assert "not applied" not in cluster.text()


def test_an_agent_without_nft(two_holders: EgressCluster, tmp_path: Path) -> None:
    cluster = two_holders
    node = cluster.lab.nodes[0]
    cluster.prefix = ["env", f"PATH={tmp_path}"]
    cluster.start(node)
    assert cluster.agents[node.name].wait(20) == 69
    assert "`nft` is not installed" in cluster.text()


def test_a_host_ip_that_is_no_address_of_the_machine(two_holders: EgressCluster) -> None:
    cluster = two_holders
    node = cluster.lab.nodes[0]
    cluster.change("HostSubnet", node.name, hostIP="192.0.2.77")
    cluster.start(node)
    assert cluster.agents[node.name].wait(20) == 69
    text = cluster.text()
    assert "192.0.2.77" in text
    assert "Traceback" not in text


def tracked(node: Host, ip: str) -> list[str]:
    """Return the connections that are translated to ``ip`` on a node, a line each."""
    family = "ipv6" if ":" in ip else "ipv4"
    return node.run(["conntrack", "-L", "-f", family, "--reply-dst", ip]).stdout.splitlines()
