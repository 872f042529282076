"""The DNS proxy router carries TCP by name, in both CNI shapes, and leaves with EGRESS_SOURCE alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Lab, NoReply
from tests.dns_proxy.kernel.dns_proxy_pod import CLOSED, SOURCE, DnsProxyPod

pytestmark = pytest.mark.root

LIST = """\
80 203.0.113.25               # port, address
8080 example.com 80           # port, name, remote port
81 _db.example.com 80
6443 db.example.com 80 check
82 [2001:db8:113::26] 80
83 2001:db8:113::26 80
84 nowhere.example.com 80
"""


def test_every_form_leaves_with_egress_source(lab: Lab, open_directory: Path) -> None:
    servers = ["203.0.113.25", "203.0.113.26", "2001:db8:113::25", "2001:db8:113::26"]
    for server in servers:
        lab.echo(server, tcp=[80])
    lab.dns.set("example.com", A=servers[:2], AAAA=servers[2:])
    lab.dns.set("_db.example.com", A=servers[:1])
    lab.dns.set("db.example.com", AAAA=servers[3:])
    with lab.capture() as capture, DnsProxyPod(lab, open_directory, LIST) as pod:
        source, _, server, port, text = pod.ask(80)
        assert (source, server, port, text) == (SOURCE[4], "203.0.113.25", "80", "hello")
        assert set(pod.served(8080, 8)) == set(servers)
        assert pod.ask(81)[2] == "203.0.113.25"
        for number in (82, 83, 6443):
            assert pod.ask(number)[0::2] == [SOURCE[6], servers[3], "hello"]
        assert pod.fails(84) in CLOSED
        assert pod.fails(85) == "refused"
        assert pod.ask(8080, str(pod.router.addresses[6]))[2] in servers
        pod.until(lambda: len(pod.access_log()) == 15)
        entry = pod.access_log()[0]
    assert capture.leaks(allowed=set(SOURCE.values())) == []
    assert {str(source) for source in capture.sources()} == set(SOURCE.values())
    expected = {"line": 1, "name": "203.0.113.25", "address": "203.0.113.25", "source": SOURCE[4], "state": "--"}
    assert expected.items() <= entry.items()
    assert entry["client"] == str(pod.client.addresses[4])
    named = [entry for entry in pod.access_log() if entry["name"] == "example.com"]
    assert {(entry["line"], entry["address"]) for entry in named} == {(2, server) for server in servers}


@pytest.mark.parametrize("variable", ["set", "unset"])
def test_only_families_with_a_source_are_used(lab: Lab, open_directory: Path, variable: str) -> None:
    """Upstream's manifests set EGRESS_SOURCE for the init container alone: the routes tell what it is."""
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[80])
    lab.dns.set("both.example.com", A=["203.0.113.25"], AAAA=["2001:db8:113::25"])
    lab.dns.set("six.example.com", AAAA=["2001:db8:113::25"])
    pod = DnsProxyPod(lab, open_directory, "80 both.example.com\n81 six.example.com 80\n", families="4")
    if variable == "unset":
        del pod.env["EGRESS_SOURCE"]
    with lab.capture() as capture, pod:
        assert pod.served(80, 4) == {"203.0.113.25": 4}
        assert pod.fails(81) in CLOSED
    assert capture.leaks(allowed={SOURCE[4]}) == []
    assert "six.example.com. has no IPv4 address" in pod.messages()


def test_ipv6_alone(lab: Lab, open_directory: Path) -> None:
    lab.echo("2001:db8:113::25", tcp=[80])
    lab.dns.set("both.example.com", A=["203.0.113.25"], AAAA=["2001:db8:113::25"])
    pod = DnsProxyPod(lab, open_directory, "80 both.example.com\n", families="6")
    pod.router.set_resolv_conf(f"nameserver {lab.dns.addresses[1]}\n")
    with lab.capture() as capture, pod:
        for address in pod.router.addresses.values():
            assert pod.ask(80, str(address))[0::2] == [SOURCE[6], "2001:db8:113::25", "hello"]
    assert capture.leaks(allowed={SOURCE[6]}) == []


def test_the_outside_cannot_use_the_proxy(lab: Lab, open_directory: Path) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    outsider = lab.machine("outsider", "192.0.2.99")
    with DnsProxyPod(lab, open_directory, "80 203.0.113.25\n") as pod:
        assert pod.ask(80)[2] == "203.0.113.25"
        with lab.capture(pod.router, "macvlan0") as capture:
            for address in SOURCE.values():
                with pytest.raises(NoReply):
                    pod.ask(80, address, outsider, timeout=0.5)
        knocked = {str(packet.dst) for packet in capture.packets if packet.dport == 80 and packet.tcp_flags == "S"}
        assert knocked == set(SOURCE.values()), "the packets did arrive"
