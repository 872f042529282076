"""Search lists, and the explanation of a port."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.config.values import Family, HostName
from egress_router.dns.resolv_conf import SearchPath, candidates, search_domains
from egress_router.dns_proxy.destinations import Destination, DnsProxyConfig
from egress_router.dns_proxy.explain import explain_dns

CLUSTER = SearchPath(("ns.svc.cluster.local", "svc.cluster.local", "cluster.local"), 5)


@pytest.mark.parametrize(
    ("name", "search", "expected"),
    [
        ("db", SearchPath(), ("db.",)),
        ("db", CLUSTER, ("db.ns.svc.cluster.local.", "db.svc.cluster.local.", "db.cluster.local.", "db.")),
        ("a.b.c.d.e.example", CLUSTER, ("a.b.c.d.e.example.",)),
        ("api.example.com", CLUSTER, ("api.example.com.",)),
        ("db", SearchPath(("corp.example",), 0), ("db.", "db.corp.example.")),
        ("db.", CLUSTER, ("db.",)),
        ("example.com.", CLUSTER, ("example.com.",)),
        ("example.com", SearchPath(("corp.example",), 1), ("example.com.",)),
        ("db", SearchPath(("x." * 125 + "x",), 1), ("db.",)),
    ],
)
def test_candidates(name: str, search: SearchPath, expected: tuple[str, ...]) -> None:
    assert candidates(HostName(name), search) == expected


def test_search_domains() -> None:
    assert search_domains(["Corp.Example.", ".", "corp.example", "b.example"]) == ("corp.example", "b.example")


CONFIG = DnsProxyConfig(
    (Destination(2, 8080, HostName("db"), 80, check=True), Destination(4, 81, ip_address("2001:db8::25"), 443)),
    {Family.IPV4: ip_address("192.0.2.46"), Family.IPV6: ip_address("2001:db8:2::46")},
)


def test_explain() -> None:
    named = explain_dns(CONFIG, 8080, SearchPath(("corp.example",), 1))
    assert str(named) == (
        'tcp port 8080: line 2 "8080 db 80 check" sends it to every IPv4 and IPv6 address of db in turn, port 80, '
        "leaving with 192.0.2.46 or 2001:db8:2::46\n"
        "  name servers: those of /etc/resolv.conf, asked for db.corp.example. then db.\n"
        "  connections end after 3600 s without traffic; health checks: a connection every 2 s"
    )
    address = explain_dns(CONFIG, 81)
    assert 'line 4 "81 2001:db8::25 443" sends it to 2001:db8::25 port 443, leaving with 2001:db8:2::46\n' in str(
        address
    )
    assert address.values()["sources"] == ["2001:db8:2::46"]
    nothing = explain_dns(CONFIG, 82)
    assert str(nothing) == "tcp port 82: no line claims it: refused (ports that are claimed: 81, 8080)"
    assert nothing.values()["line"] is None
