"""A router that leaves waits for TCP connections that can carry data, and for UDP flows while packets come."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from egress_router.config.values import Protocol
from egress_router.daemon.drain import QUIET_SECONDS, Drain
from egress_router.net.conntrack import Connection

TCP = Connection(
    protocol=Protocol.TCP,
    address=ip_address("198.51.100.2"),
    port=80,
    reply_address=ip_address("203.0.113.25"),
    reply_port=80,
    reply_to=ip_address("192.0.2.46"),
    translated=True,
    answered=True,
    live=True,
    timeout=100,
    key=b"tcp",
)
UDP = replace(TCP, protocol=Protocol.UDP, live=False, timeout=120, key=b"udp")


def test_tcp_counts_while_it_is_live() -> None:
    drain = Drain()
    assert drain.left([TCP, replace(TCP, key=b"2")], 0.0) == 2
    assert drain.left([TCP, replace(TCP, key=b"2", live=False)], 100.0) == 1
    assert drain.left([], 101.0) == 0
    ended = replace(TCP, key=b"3", live=False)
    assert drain.carrying([TCP, ended, UDP], 102.0) == [TCP, UDP]


def test_a_quiet_udp_flow_is_not_waited_for_any_longer() -> None:
    drain = Drain()
    assert drain.left([UDP], 0.0) == 1
    assert drain.left([replace(UDP, timeout=119)], 1.0) == 1
    assert drain.left([replace(UDP, timeout=118)], QUIET_SECONDS) == 0


def test_a_busy_udp_flow_is_waited_for() -> None:
    """Rounded seconds do not make a flow busy."""
    drain = Drain()
    for tick in range(40):
        assert drain.left([UDP], tick / 4) == 1
    for tick in range(40, 60):
        timeout = 120 - int(tick / 4 - 10)
        left = drain.left([replace(UDP, timeout=timeout)], tick / 4)
    assert left == 0
