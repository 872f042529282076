"""Echoes through a tunnel: what is sent when."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from egress_router.net.tunnel_echo import Leg, TunnelEchoes, TunnelWay

ALL = {Leg.TUNNEL, Leg.FULL_SIZE, Leg.BACK}
HERE, AMONG_PODS, OTHER = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class FakeSocket:
    """Takes whatever is sent."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_open = True

    def setsockopt(self, *_: object) -> None:
        assert self.is_open

    def sendto(self, *_: object) -> None:
        assert self.is_open

    def close(self) -> None:
        self.is_open = False


class Sockets:
    """Opens sockets; fails for the addresses in ``absent``."""

    def __init__(self) -> None:
        self.absent: set[str] = set()
        self.opened: list[FakeSocket] = []

    def open(self, address: str) -> socket.socket:
        if address in self.absent:
            raise OSError(99, "Cannot assign requested address")
        self.opened.append(FakeSocket(address))
        return cast(socket.socket, self.opened[-1])


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.fixture
def echoes(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> TunnelEchoes:
    monkeypatch.setattr(TunnelEchoes, "_sender", lambda _, source: sockets.open(source))
    return TunnelEchoes(HERE, sockets.open)


def asked(echoes: TunnelEchoes, *, seldom: bool = True) -> set[Leg]:
    return echoes.send(1, 0, [("node", "127.0.0.9")], seldom=seldom).get("node", set())


@pytest.mark.parametrize(
    ("absent", "probed"), [({HERE}, {Leg.BACK}), ({AMONG_PODS}, ALL - {Leg.BACK}), ({HERE, AMONG_PODS}, set())]
)
def test_a_leg_that_cannot_be_probed_now_is_probed_later(
    echoes: TunnelEchoes, sockets: Sockets, absent: set[str], probed: set[Leg]
) -> None:
    """Without another change: a leg that nobody probes would look as if it worked."""
    sockets.absent = absent
    echoes.use(TunnelWay("lo", {"node": 1}, AMONG_PODS, 1000))
    assert asked(echoes) == probed
    sockets.absent = set()
    assert asked(echoes) == ALL
    count = len(sockets.opened)
    assert asked(echoes) == ALL
    assert len(sockets.opened) == count, "once"
    assert asked(echoes, seldom=False) == {Leg.TUNNEL}


def test_the_address_among_the_pods_changes(echoes: TunnelEchoes, sockets: Sockets) -> None:
    for back in (AMONG_PODS, OTHER, "", AMONG_PODS):
        echoes.use(None)
        assert asked(echoes) == set()
        echoes.use(TunnelWay("lo", {"node": 1}, back, 1000))
        assert asked(echoes) == (ALL if back else ALL - {Leg.BACK})
        listening = [
            one.address for one in sockets.opened if one.is_open and cast(socket.socket, one) is echoes.answers
        ]
        assert listening == ([back] if back else [])
    echoes.close()
    assert echoes.answers is None
    assert not any(one.is_open for one in sockets.opened), "none is left open"
