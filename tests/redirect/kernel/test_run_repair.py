"""`egress-router run`: what is taken away comes back, by itself and soon, and nothing leaks meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Lab
from tests.redirect.kernel.live import PATIENCE, LiveRouter
from tests.redirect.kernel.router import SOURCE4, SOURCE6, assert_answered_by, assert_no_leak

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n203.0.113.26\n"
NETWORK = {
    "address": "ip address del 192.0.2.46/32 dev macvlan0",
    "address of IPv6": "ip address del 2001:db8:2::46/128 dev macvlan0",
    "link": "ip link set macvlan0 down",
    "default route": "ip route del default dev macvlan0",
    "egress table": "ip route flush table 14601",
    "egress table of IPv6": "ip -6 route flush table 14601",
    "unreachable": "ip route del unreachable default table 14601 metric 65535",
    "cluster table": "ip route flush table 14600",
    "rule": "ip rule del priority 14602",
    "rules of IPv6": "for i in 14600 14601 14602; do ip -6 rule del priority $i; done",
    "forwarding": "echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding",
}
RULESETS = {
    "nftables": {
        "table": "nft delete table inet egress_router",
        "all": "nft flush ruleset",
        "chain": "nft flush chain inet egress_router postrouting",
        "policy": "nft add chain inet egress_router forward '{ policy accept ; }'",
        "element": "nft delete element inet egress_router redirect4 '{ tcp . 80 }'",
    },
    "iptables": {
        "nat": "iptables-legacy -t nat -F",
        # Its chains may be there again before they are deleted.
        "filter": "iptables-legacy -F; iptables-legacy -X || true",
        "translation": "iptables-legacy -t nat -F EGRESSR-POSTROUTING",
        "hook": "ip6tables-legacy -t nat -D PREROUTING 1",
    },
}


def test_everything_that_is_deleted_comes_back_and_nothing_leaks_meanwhile(
    lab: Lab, backend: str, tmp_path: Path
) -> None:
    """Datagrams flow all the time: they have no handshake, so every one of them tries its luck."""
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("203.0.113.26", tcp=[81], udp=[81])
    lab.echo("2001:db8:113::25", tcp=[443])
    router = LiveRouter(lab, backend, tmp_path, RULES)
    with lab.capture() as capture:
        router.start()
        before = router.state()
        sender = Datagrams(router)
        for name, command in (NETWORK | RULESETS[backend]).items():
            known = repairs(router)
            router.host.run(["sh", "-c", command])
            sender.until(lambda known=known: repairs(router) > known, f"{name} is put back")  # type: ignore[misc]
            # Everything that was there is there again, whatever its order.
            router.until(lambda: same(router.state(), before), f"all is as before ({name})")
            assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.25", 80)
            assert_answered_by(router.tcp(81), SOURCE4, "203.0.113.26", 81)
            assert_answered_by(router.tcp(443, 6), SOURCE6, "2001:db8:113::25", 443)
        assert [packet for packet in capture.outgoing() if packet.proto == "udp"], "no datagram was seen to leave"
    assert_no_leak(capture)
    log = router.log()
    for text in (
        "- address 192.0.2.46/32 dev macvlan0",
        "- the egress interface up",
        "- route default via 192.0.2.1 dev macvlan0 src 192.0.2.46 table 14601",
        "- rule 14602: from all iif eth0 lookup 14601 (IPv4)",
        "+ sysctl net/ipv4/conf/eth0/forwarding = 0",
    ):
        assert text in log


class Datagrams:
    """A client that sends to the fallback while it waits; a refusal makes it a new socket, and so a new flow."""

    def __init__(self, router: LiveRouter) -> None:
        self._router = router
        self._new()

    def _new(self) -> None:
        self._socket = self._router.client.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited for: {what}\n{self._router.log()}"
            try:
                self._socket.sendto(b"x", (str(self._router.host.addresses[4]), 81))
            except OSError:
                self._new()
            time.sleep(0.002)


def repairs(router: LiveRouter) -> int:
    return router.log().count("put back what was missing")


def same(one: str, other: str) -> bool:
    return sorted(one.splitlines()) == sorted(other.splitlines())


@pytest.mark.parametrize("shape", ["bridge"])
def test_a_route_that_the_cluster_side_gets_later_is_followed(lab: Lab, backend: str, tmp_path: Path) -> None:
    router = LiveRouter(lab, backend, tmp_path, RULES)
    router.start()
    router.host.ip("route add 198.51.100.128/25 via 198.51.100.1 dev eth0")
    router.logged("- route 198.51.100.128/25 via 198.51.100.1 dev eth0 table 14600")
    assert "198.51.100.128/25" in router.host.ip("route show table 14600")
