"""`egress-router run`: health, readiness, metrics; who reaches them, and what they say in which trouble."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Host, Lab, NoReply
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, assert_answered_by
from tests.support.endpoint import Endpoint

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n203.0.113.26\n2001:db8:113::26\n"
PROBES = {"EGRESS_PROBE_INTERVAL": "1"}


def at(router: LiveRouter, host: Host | None = None, family: int = 4) -> Endpoint:
    """The router's endpoint, asked by its client or ``host``."""
    return Endpoint(host or router.client, str(router.host.addresses[family]))


def ready(router: LiveRouter) -> bool:
    return at(router).ready()


def unready(router: LiveRouter, text: str) -> bool:
    return at(router).unready(text)


def test_health_is_open_to_the_cluster_and_closed_to_the_egress_side(lab: Lab, backend: str, tmp_path: Path) -> None:
    """Also from the egress side's own network, to either of the pod's addresses."""
    lab.echo("203.0.113.26", tcp=[81, 9909])
    lab.echo("2001:db8:113::26", tcp=[9909])
    outside = lab.machine("outside", "192.0.2.99")
    router = LiveRouter(lab, backend, tmp_path, RULES)
    router.start()
    assert_answered_by(router.tcp(81), SOURCE4, "203.0.113.26", 81)
    router.until(lambda: at(router).get("/healthz")[0] == 200, "the health server listens")
    for family in (4, 6):
        assert at(router, family=family).get("/healthz") == (200, "ok\n")
        assert at(router, lab.nodes[0], family).get("/healthz") == (200, "ok\n")
    router.until(lambda: ready(router), "the router is ready")
    assert at(router).get("/nothing")[0] == 404
    outside.ip(f"route add {router.host.addresses[4]} via {SOURCE4}")
    for address in (SOURCE4, str(router.host.addresses[4])):
        with pytest.raises(NoReply) as silent:
            lab.tcp(outside, address, 9909, timeout=1)
        assert silent.value.reason == "timeout"


def test_a_silent_gateway_makes_it_unready_but_not_unhealthy(lab: Lab, backend: str, tmp_path: Path) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    checks = {"EGRESS_CHECK": "203.0.113.25:80"}
    router = LiveRouter(lab, backend, tmp_path, RULES, **PROBES, **checks)
    router.start()
    router.until(lambda: ready(router), "the router is ready")
    lab.gateway.ip("link set eth0 down")
    router.until(lambda: unready(router, "gateway 192.0.2.1 does not answer on macvlan0"), "IPv4 is missed")
    router.until(lambda: unready(router, "gateway 2001:db8:2::1 does not answer on macvlan0"), "IPv6 is missed")
    router.until(lambda: unready(router, "203.0.113.25:80 does not accept connections"), "the check fails")
    assert at(router).get("/healthz") == (200, "ok\n")
    lab.gateway.ip("link set eth0 up")
    lab.gateway.ip("-6 address replace 2001:db8:2::1/64 dev eth0 nodad")
    router.until(lambda: ready(router), "the router is ready again")
    assert "gateway 192.0.2.1 answers" in router.log()


def test_a_cable_that_is_pulled_makes_it_unready_and_announces_afterwards(
    lab: Lab, backend: str, tmp_path: Path
) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    router = LiveRouter(lab, backend, tmp_path, RULES, EGRESS_ANNOUNCE_INTERVAL="0", **PROBES)
    router.start()
    router.until(lambda: ready(router), "the router is ready")
    time.sleep(1.5)
    with lab.capture() as capture:
        lab.unplug(lab.nodes[0])
        router.until(lambda: unready(router, "macvlan0 has no carrier"), "the carrier is missed")
        lab.plug(lab.nodes[0])
        router.until(lambda: ready(router), "the router is ready again")
        router.until(lambda: announced(capture.packets) == {4, 6}, "both addresses are announced again")
    assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.25", 80)


def announced(packets: list) -> set[int]:  # type: ignore[type-arg]
    """The families that somebody announced: a gratuitous ARP, an unsolicited advertisement to all nodes."""
    found = set()
    for packet in packets:
        if packet.proto == "arp" and str(packet.src) == str(packet.target) == SOURCE4:
            found.add(4)
        if packet.proto == "icmpv6" and packet.icmp_type == 136 and str(packet.dst) == "ff02::1":
            found.add(6)
    return found


def test_announcements_are_repeated_and_a_conflict_is_named_and_makes_it_unready(
    lab: Lab, backend: str, tmp_path: Path
) -> None:
    thief = lab.machine("thief", "192.0.2.99")
    router = LiveRouter(lab, backend, tmp_path, RULES, EGRESS_ANNOUNCE_INTERVAL="1", EGRESS_DAD="on", **PROBES)
    router.start()
    time.sleep(1.5)
    with lab.capture() as capture:
        router.until(lambda: announced(capture.packets) == {4, 6}, "both addresses are announced again")
    router.until(lambda: ready(router), "the router is ready")
    thief.ip(f"address add {SOURCE4}/32 dev eth0")
    mac = thief.mac("eth0")
    router.until(lambda: unready(router, f"{mac} claims {SOURCE4} too"), "the conflict is seen")
    assert f"{mac} claims {SOURCE4}, which is ours" in router.log()
    assert metric(router, "egress_router_address_conflicts_total") >= 1
    thief.ip(f"address del {SOURCE4}/32 dev eth0")
    if (lab.shape, backend) == ("bridge", "nftables"):
        # A matter of time alone, of a quarter of a minute.
        router.until_for(lambda: ready(router), "the conflict is over", 30)


def metric(router: LiveRouter, name: str) -> float:
    """Return a figure of /metrics by its name with labels."""
    return at(router).figure(name)


@pytest.mark.parametrize("shape", ["bridge"])
def test_metrics_and_status(lab: Lab, backend: str, tmp_path: Path) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    router = LiveRouter(lab, backend, tmp_path, RULES, EGRESS_FLOW_OFFLOAD="off")
    router.start()
    for _ in range(3):
        router.tcp(80)
    label = '{destination="80 tcp 203.0.113.25"}'
    assert metric(router, f"egress_router_destination_connections_total{label}") == 3
    assert metric(router, f"egress_router_destination_packets_total{label}") >= 15
    assert metric(router, f"egress_router_destination_bytes_total{label}") >= 15 * 40
    used = 'egress_router_source_ports_used{port="80",protocol="tcp",remote="203.0.113.25"}'
    assert metric(router, used) == 3
    assert metric(router, "egress_router_conntrack_entries") >= 3
    router.until(lambda: metric(router, 'egress_router_gateway_up{gateway="192.0.2.1"}') == 1, "the gateway is up")
    at(router).check_figures("redirect")
    router.swap("80 tpc 203.0.113.25\n")
    router.logged("reload refused")
    router.swap("80 tcp 203.0.113.25\n")
    router.logged("reload: 1 destinations")
    assert metric(router, 'egress_router_reloads_total{result="failed"}') == 1
    assert metric(router, 'egress_router_reloads_total{result="ok"}') == 1
    router.until(lambda: ready(router), "the router is ready")
    live = router.status()["live"]
    assert (live["ready"], live["reasons"], live["reloads"], live["reload_failures"]) == (True, [], 1, 1)
    assert live["gateways"] == {"192.0.2.1": True, "2001:db8:2::1": True}
    text = router.run("status").stdout
    assert "gateway 192.0.2.1: answers" in text
    assert "(1 ok, 1 failed)" in text
    assert json.loads(at(router).get("/status")[1])["ready"] is True
    watching = router.host.popen(
        [sys.executable, "-m", "egress_router", "status", "--watch"],
        env=router.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    shown = 0
    while shown < 2:
        line = watching.stdout.readline()
        assert line
        shown += "leaving by macvlan0" in line
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
