"""Counting source ports: when, and what becomes a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from egress_router.config.values import Protocol
from egress_router.egressip.node.source_ports import COUNT_EVERY, SourcePorts
from egress_router.egressip.node_figures import PORTS
from egress_router.net.conntrack import Use

USE = Use(ip_address("192.0.2.45"), Protocol.TCP, ip_address("203.0.113.25"), 443)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.done: list[Callable[[dict[Use, int]], object]] = []

    def job(self, name: str, work: object, done: Any, failed: object) -> None:
        self.done.append(done)


def test_one_count_at_a_time_and_a_rest_after_a_long_one() -> None:
    clock = Clock()
    ports = SourcePorts(clock.job, print, lambda: clock.now)
    ports.count(["192.0.2.45"])
    clock.now += COUNT_EVERY
    ports.count(["192.0.2.45"])
    assert len(clock.done) == 1, "it is still counted"
    clock.now += 5
    clock.done[0]({USE: 7})
    clock.now += COUNT_EVERY
    ports.count(["192.0.2.45"])
    assert len(clock.done) == 1, "20 s of counting are followed by 400 s without"
    clock.now += 400
    ports.count(["192.0.2.45"])
    assert len(clock.done) == 2
    assert ports.used == {USE: 7}
    other = replace(USE, port=80)
    clock.done[1]({USE: 7, other: 12})
    assert (ports.connections, ports.most) == ({"192.0.2.45": 19}, {"192.0.2.45": 12})


def test_without_addresses_nothing_is_counted() -> None:
    clock = Clock()
    ports = SourcePorts(clock.job, print, lambda: clock.now, used={USE: 1})
    ports.count([])
    assert not clock.done
    assert not ports.used


def test_nearly_all_is_a_problem() -> None:
    clock = Clock()
    for count, words in ((PORTS // 2, 0), (int(PORTS * 0.9), 1)):
        found = SourcePorts(clock.job, print, used={USE: count}).problems()
        assert len(found) == words
    assert "192.0.2.45 uses 58060 of 64512 source ports for tcp to 203.0.113.25 port 443" in found[0]
