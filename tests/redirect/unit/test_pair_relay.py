"""What goes between the pods of a pair that elects there, and what is said of what does not."""

from __future__ import annotations

import errno
import logging
from unittest.mock import MagicMock, Mock

import pytest

from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.values import Link
from egress_router.redirect.pair import relay
from egress_router.redirect.pair.relay import Relay
from egress_router.redirect.pair.values import ElectionNetwork, PairConfig
from tests.support.fake_loop import fake_loop

PAIR = PairConfig(46, peers=("shop-peers",), network=ElectionNetwork.CLUSTER)


def relay_to(*peers: str) -> Relay:
    """Return a relay of a pod whose datagrams cannot be sent."""
    found = Relay(PAIR, fake_loop(), tuple)
    found.peers = frozenset(peers)
    found._sockets[4] = Mock(sendto=Mock(side_effect=OSError(errno.ENETUNREACH, "Network is unreachable")))
    return found


def test_peers_that_cannot_be_reached_are_said_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """Adverts go out seven times a second."""
    caplog.set_level(logging.WARNING)
    peers = ("10.1.2.3", "10.1.2.4")
    sender = relay_to(*peers)
    for _ in range(20):
        for peer in peers:
            sender._send(b"x", peer)
    assert len(caplog.records) == len(peers)
    for number in range(100):
        sender.peers = frozenset([f"10.1.3.{number}"])
        sender._send(b"x", f"10.1.3.{number}")
    assert len(sender._unsent) == 1


def test_an_interface_of_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network attachment may be called anything."""
    kernel = MagicMock()
    made = kernel.return_value.__enter__.return_value
    made.link.return_value = Link(3, "egress-pair", "macvlan", "02:00:00:00:00:01", 1500, up=True, lower_up=True)
    monkeypatch.setattr(relay, "Rtnetlink", kernel)
    with pytest.raises(PlatformError, match="egress-pair, a macvlan of somebody else's"):
        relay_to().open(Mock())
    made.remove_link.assert_not_called()


def test_an_interface_that_cannot_be_made_anew_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is looked for every second."""
    monkeypatch.setattr("socket.if_nametoindex", Mock(side_effect=OSError))
    monkeypatch.setattr(relay, "Rtnetlink", Mock(side_effect=PlatformError("no more interfaces")))
    found = relay_to()
    assert not any(found.renewed(Mock()) for _ in range(5))
    assert len(caplog.records) == 1
