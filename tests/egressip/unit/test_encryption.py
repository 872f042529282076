"""The device that encrypts: put in place and put back on a kernel in memory; keys that come, change and go."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from egress_router.config.values import Network
from egress_router.egressip.node import encryption as encryption_module
from egress_router.egressip.node.encryption import Encryption, private_key
from egress_router.egressip.node.nft_rules import node_tables
from egress_router.egressip.node.state import ENCRYPTED, TUNNEL_PORT, NodeSettings, NodeState
from egress_router.egressip.node.tunnel import INSIDE, inside_address, tunnel_mtu, wanted_tunnel
from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.fake import FakeRtnetlink
from egress_router.net.rtnetlink.values import Link
from egress_router.net.wireguard import Device, Peer

OUTSIDE = Link(2, "eth0", "veth", "02:00:00:00:00:01", 1500, up=True, lower_up=True)
OWN, OTHER = "192.0.2.11", "192.0.2.12"
KEYS = [b64encode(bytes([number] * 32)).decode() for number in range(4)]


class FakeWireGuard:
    """One device in memory; its public key is the private one behind a letter."""

    def __init__(self) -> None:
        self.now = Device("", 0, frozenset())

    def __enter__(self) -> FakeWireGuard:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def device(self, name: str) -> Device:
        assert name == ENCRYPTED
        return self.now

    def configure(self, name: str, private_key: str, port: int) -> None:
        self.now = replace(self.now, key=f"P{private_key}", port=port)

    def set_peer(self, name: str, key: str, endpoint: tuple[str, int], inside: Collection[Network]) -> None:
        others = {replace(peer, inside=peer.inside - set(inside)) for peer in self.now.peers if peer.key != key}
        self.now = replace(self.now, peers=frozenset(others | {Peer(key, endpoint, frozenset(inside))}))

    def remove_peer(self, name: str, key: str) -> None:
        self.now = replace(self.now, peers=frozenset(peer for peer in self.now.peers if peer.key != key))

    def keys(self) -> set[str]:
        return {peer.key for peer in self.now.peers}


@pytest.fixture
def wireguard(monkeypatch: pytest.MonkeyPatch) -> FakeWireGuard:
    fake = FakeWireGuard()
    monkeypatch.setattr(encryption_module, "WireGuard", lambda: fake)
    return fake


def made(tmp_path: Path, logged: list[str] | None = None) -> Encryption:
    log = (logged if logged is not None else []).append
    return Encryption(OWN, OUTSIDE, 14792, tmp_path / "node.wireguard", log)


def test_the_device_is_put_in_place_once_and_put_back(wireguard: FakeWireGuard, tmp_path: Path) -> None:
    kernel, encryption = FakeRtnetlink([OUTSIDE]), made(tmp_path)
    assert encryption.ensure(kernel)
    link = kernel.link(ENCRYPTED)
    assert link is not None
    assert (link.kind, link.mtu, link.up) == ("wireguard", 1440, True)
    assert {str(item.address.ip) for item in kernel.addresses(link)} == {str(inside_address(OWN))}
    assert not any(item.preferred for item in kernel.addresses(link)), "no connection of the node starts there"
    assert encryption.public_key == wireguard.now.key
    encryption.learn(OTHER, KEYS[1])
    assert encryption.ensure(kernel) == [], "nothing differs any more"
    # Somebody takes the device away, and with it all that the kernel knew.
    kernel.remove_link(link)
    wireguard.now = Device("", 0, frozenset())
    lines = encryption.ensure(kernel)
    assert f"- link {ENCRYPTED}" in lines
    assert f"- peer {OTHER} of {ENCRYPTED}" in lines
    assert wireguard.now.peers == {Peer(KEYS[1], (OTHER, 14792), frozenset({ip_network(inside_address(OTHER))}))}
    assert encryption.ensure(kernel) == []


def test_another_key_takes_the_place_of_the_former(wireguard: FakeWireGuard, tmp_path: Path) -> None:
    logged: list[str] = []
    encryption = made(tmp_path, logged)
    encryption.ensure(FakeRtnetlink([OUTSIDE]))
    for key in (KEYS[1], KEYS[1], KEYS[2]):
        encryption.learn(OTHER, key)
    assert wireguard.keys() == {KEYS[2]}
    assert logged == [f"the node {OTHER} has another key of the encrypted tunnel"]
    encryption.learn("192.0.2.13", KEYS[3])
    encryption.follow({OTHER})
    assert wireguard.keys() == {KEYS[2]}, "a node that has gone has no key"


def test_an_agent_that_starts_again_takes_over_what_is_there(wireguard: FakeWireGuard, tmp_path: Path) -> None:
    kernel, first = FakeRtnetlink([OUTSIDE]), made(tmp_path)
    first.ensure(kernel)
    first.learn(OTHER, KEYS[1])
    before = wireguard.now
    second = made(tmp_path)
    kernel.calls.clear()
    second.ensure(kernel)
    assert wireguard.now == before
    assert second.public_key == first.public_key
    assert kernel.calls == []
    second.learn(OTHER, KEYS[2])
    assert wireguard.keys() == {KEYS[2]}


def test_an_agent_that_starts_again_believes_no_node_that_has_gone_meanwhile(
    wireguard: FakeWireGuard, tmp_path: Path
) -> None:
    kernel, first = FakeRtnetlink([OUTSIDE]), made(tmp_path)
    first.ensure(kernel)
    first.learn(OTHER, KEYS[1])
    first.learn("192.0.2.13", KEYS[2])
    second = made(tmp_path)
    second.ensure(kernel)
    second.follow({OTHER})
    assert wireguard.keys() == {KEYS[1]}, "the key of the other is in nobody's hands that counts"
    second.follow({OTHER, "192.0.2.13"})
    second.learn("192.0.2.13", KEYS[3])
    assert wireguard.keys() == {KEYS[1], KEYS[3]}


def test_the_key_of_a_node(tmp_path: Path) -> None:
    path = tmp_path / "node.wireguard"
    key = private_key(path)
    assert private_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("no key")
    with pytest.raises(PlatformError, match="take it away") as raised:
        private_key(path)
    assert "no key\n" not in str(raised.value)
    with pytest.raises(PlatformError, match="No such file"):
        private_key(tmp_path / "none" / "key")


@pytest.mark.parametrize(("host_ip", "mtu", "plain"), [(OWN, 1370, 1450), ("2001:db8:2::11", 1350, 1430)])
def test_what_fits(host_ip: str, mtu: int, plain: int) -> None:
    """1500 less IP, UDP and WireGuard's 32 bytes, less IPv6, UDP, VXLAN and Ethernet."""
    assert tunnel_mtu(1500, host_ip, encrypted=True) == mtu
    assert tunnel_mtu(1500, host_ip, encrypted=False) == plain
    _, link_mtu, vxlan = wanted_tunnel(host_ip, OUTSIDE, TUNNEL_PORT, encrypted=True)
    assert (link_mtu, vxlan.local) == (mtu, inside_address(host_ip))


def test_only_what_was_encrypted_reaches_the_tunnel() -> None:
    def rules(*, encrypted: bool) -> list[str]:
        settings = NodeSettings("a", "eth0", (), encrypted=encrypted)
        chains = {chain.name: chain.rules for chain in node_tables(settings, NodeState(), 1370)[0].chains}
        assert f"udp dport {TUNNEL_PORT} goto tunnel_port" in chains["node_input"]
        return list(chains["tunnel_port"])

    drop = "counter name tunnel_stranger drop"
    assert rules(encrypted=True) == [f'iifname "{ENCRYPTED}" accept', drop]
    assert rules(encrypted=False) == ["ip saddr @nodes4 accept", "ip6 saddr @nodes6 accept", drop]


def test_nothing_of_the_tunnel_leaves_by_another_device() -> None:
    """Without the device that encrypts its addresses are reached by the default route."""

    def output(*, encrypted: bool) -> list[str]:
        inet, _ = node_tables(NodeSettings("a", "eth0", (), encrypted=encrypted), NodeState(), 1370)
        leaving = [chain for chain in inet.chains if "hook output" in (chain.hook or "")]
        return [rule for chain in leaving for rule in chain.rules if rule.endswith(" drop")]

    assert output(encrypted=True) == [f'oifname != {{ "lo", "{ENCRYPTED}" }} ip6 daddr {INSIDE} drop']
    assert output(encrypted=False) == []
