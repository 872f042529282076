"""The DNS server behaves as the proxies' tests need it: well, badly, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab import Lab
from lab.host import Host

pytestmark = pytest.mark.root


@pytest.fixture
def plain(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()


def dig(pod: Host, *question: str) -> str:
    return pod.run(["dig", "+tries=1", "+time=1", *question], check=False).stdout


def short(pod: Host, *question: str) -> list[str]:
    return sorted(dig(pod, "+short", *question).split())


def test_answers_pods(lab: Lab) -> None:
    pod = lab.pod("client")
    lab.dns.set("free.fr", A=["203.0.113.25", "203.0.113.26"], AAAA=["2001:db8:113::25"], ttl=7)
    for server in lab.dns.addresses:
        for transport in ("+notcp", "+tcp"):
            asked = (f"@{server}", transport)
            assert short(pod, *asked, "FREE.fr") == ["203.0.113.25", "203.0.113.26"]
            assert short(pod, *asked, "free.fr", "AAAA") == ["2001:db8:113::25"]
    assert "free.fr.\t\t7\tIN\tA\t203.0.113.25" in dig(pod, "free.fr")
    assert "203.0.113.25" in pod.run(["getent", "ahostsv4", "free.fr"]).stdout  # through resolv.conf
    query = lab.dns.queries[0]
    assert (query.name, query.type, query.transport, query.peer) == (
        "free.fr",
        "A",
        "udp",
        str(lab.nodes[0].addresses[4]),
    )
    assert query.edns > 0


def test_records_change(plain: Lab) -> None:
    pod, dns = plain.pod("client"), plain.dns
    dns.set("a.example.com", A=["203.0.113.25"])
    assert short(pod, "a.example.com") == ["203.0.113.25"]
    dns.set("a.example.com", A=["203.0.113.26"])
    assert short(pod, "a.example.com") == ["203.0.113.26"]
    assert short(pod, "a.example.com", "AAAA") == []
    assert "status: NOERROR" in dig(pod, "a.example.com", "AAAA")
    dns.remove("a.example.com")
    assert "status: NXDOMAIN" in dig(pod, "a.example.com")
    dns.set("a.example.com", rcode="SERVFAIL")
    assert "status: SERVFAIL" in dig(pod, "a.example.com")
    dns.set("a.example.com", drop=True)
    assert "status:" not in dig(pod, "a.example.com")
    dns.set("a.example.com", A=["203.0.113.25"], silent=["AAAA"])
    assert short(pod, "a.example.com") == ["203.0.113.25"]
    assert "status:" not in dig(pod, "a.example.com", "AAAA")
    dns.set("*.example.com", A=["203.0.113.27"])
    dns.set("alias.example.org", CNAME="deep.down.example.com")
    assert short(pod, "alias.example.org") == ["203.0.113.27", "deep.down.example.com."]
    dns.set_ptr("203.0.113.25", "free.fr")
    dns.set_ptr("2001:db8:113::25", "free.fr")
    assert short(pod, "-x", "203.0.113.25") == short(pod, "-x", "2001:db8:113::25") == ["free.fr."]


def test_long_answers(plain: Lab) -> None:
    pod, dns = plain.pod("client"), plain.dns
    many = sorted(f"203.0.113.{number}" for number in range(100, 160))
    dns.set("many.example.com", A=many)
    assert short(pod, "+ignore", "+bufsize=4096", "many.example.com") == many
    cut = dig(pod, "+ignore", "+noedns", "many.example.com")
    assert " tc" in cut
    assert cut.count("203.0.113.") < 60
    assert " tc" in dig(pod, "+ignore", "+bufsize=600", "many.example.com")
    assert short(pod, "+noedns", "many.example.com") == many  # dig goes on over TCP
    assert dns.queries[-1].transport == "tcp"


def test_lesser_servers(plain: Lab) -> None:
    pod, dns = plain.pod("client"), plain.dns
    many = sorted(f"203.0.113.{number}" for number in range(100, 160))
    dns.set("many.example.com", A=many)
    dns.limits(udp=512)
    assert " tc" in dig(pod, "+ignore", "+bufsize=4096", "many.example.com")
    dns.limits(edns=False)
    assert "status: FORMERR" in dig(pod, "+noednsnegotiation", "+qr", "many.example.com")
    dns.limits(tcp=False)
    assert short(pod, "+bufsize=4096", "many.example.com") == many
    assert "connection refused" in dig(pod, "+tcp", "many.example.com")
    dns.limits()
    assert short(pod, "+tcp", "many.example.com") == many


def test_down_and_back(plain: Lab) -> None:
    pod, dns = plain.pod("client"), plain.dns
    dns.set("free.fr", A=["203.0.113.25"])
    assert short(pod, "free.fr") == ["203.0.113.25"]
    dns.stop()
    assert "connection refused" in dig(pod, "free.fr")
    assert "connection refused" in dig(pod, "+tcp", "free.fr")
    dns.start()
    assert short(pod, "free.fr") == ["203.0.113.25"]
    assert short(pod, "+tcp", "free.fr") == ["203.0.113.25"]
