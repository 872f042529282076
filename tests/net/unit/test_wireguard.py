"""Keys and peers in pyroute2's messages, as the kernel reads and writes them."""

from __future__ import annotations

import struct
from base64 import b64encode
from importlib import import_module
from ipaddress import ip_network
from typing import Any

import pytest

from egress_router.net import wireguard
from egress_router.net.icmp_probe import Question, Reply, parse_message
from egress_router.net.wireguard import Device, Peer, WireGuard, is_key

KEY, OTHER = (b64encode(bytes([number] * 32)).decode() for number in (1, 2))


class FakeNetlink:
    """Keeps what is sent, and gives it back to who asks."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def change(self, message: Any, type_: int, flags: int, doing: str) -> None:
        self.sent.append(message)

    def dump(self, message: Any, type_: int, doing: str) -> list[Any]:
        found = []
        for one in self.sent:
            one.encode()
            data = bytes(one.data)
            decoded = import_module("pyroute2.netlink.generic.wireguard").wgmsg(struct.pack("=I", len(data)) + data[4:])
            decoded.decode()
            found.append(decoded)
        return found

    def close(self) -> None:
        pass


@pytest.fixture
def netlink(monkeypatch: pytest.MonkeyPatch) -> FakeNetlink:
    fake = FakeNetlink()
    monkeypatch.setattr(wireguard, "Netlink", lambda _: fake)
    monkeypatch.setattr(WireGuard, "_family_number", lambda _: 30)
    return fake


@pytest.mark.parametrize("address", ["192.0.2.11", "2001:db8:2::11"])
def test_what_is_set_is_what_is_read(netlink: FakeNetlink, address: str) -> None:
    """A device comes in several messages where it has many peers."""
    inside = {ip_network("fd5c:90be:147a:4790::1/128"), ip_network("192.0.2.11/32")}
    with WireGuard() as device:
        device.set_peer("wg0", KEY, (address, 14792), inside)
        device.set_peer("wg0", OTHER, (address, 14793), [])
        netlink.sent[0]["attrs"] += [("WGDEVICE_A_PUBLIC_KEY", KEY), ("WGDEVICE_A_LISTEN_PORT", 14792)]
        first = Peer(KEY, (address, 14792), frozenset(inside))
        second = Peer(OTHER, (address, 14793), frozenset())
        assert device.device("wg0") == Device(KEY, 14792, frozenset({first, second}))


def test_a_device_without_a_key_has_none(netlink: FakeNetlink) -> None:
    with WireGuard() as device:
        device.configure("wg0", KEY, 14792)
        netlink.sent[0]["attrs"].append(("WGDEVICE_A_PUBLIC_KEY", b64encode(bytes(32)).decode()))
        assert device.device("wg0") == Device("", 14792, frozenset())


@pytest.mark.parametrize("text", ["", "x", KEY[:-2], KEY + "=", KEY.replace("=", "\n="), b64encode(bytes(33)).decode()])
def test_what_is_no_key(text: str) -> None:
    assert is_key(KEY)
    assert not is_key(text)
    asked = parse_message(b'{"ask": 1, "key": "%s"}' % text.encode())
    assert asked is None or (isinstance(asked, Question) and asked.key == "")


def test_keys_in_the_words_of_agents() -> None:
    asked = parse_message(b'{"ask": 1, "uses": true, "key": "%s"}' % KEY.encode())
    told = parse_message(b'{"told": 1, "key": "%s"}' % KEY.encode())
    assert isinstance(asked, Question)
    assert isinstance(told, Reply)
    assert (asked.key, told.key) == (KEY, KEY)
    for wrong in (b"7", b'["x"]', b"null"):
        odd = parse_message(b'{"told": 1, "key": %s}' % wrong)
        assert isinstance(odd, Reply)
        assert odd.key == ""
