"""`explain --live` in a router pod: the pod's resolver, routes and addresses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lab import Lab
from tests.dns_proxy.kernel.dns_proxy_pod import ROOT, SOURCE, DnsProxyPod

pytestmark = pytest.mark.root

EXPLAIN = [sys.executable, "-m", "egress_router", "explain", "--live"]


@pytest.fixture
def shape() -> str:
    """How packets leave is another test's question."""
    return "bridge"


def test_explain_live(lab: Lab, open_directory: Path) -> None:
    pod = DnsProxyPod(lab, open_directory, "8080 db 80\n", families="4")
    pod.router.set_resolv_conf(f"search corp.example\nnameserver {lab.dns.address}\noptions ndots:5\n")
    pod.init()
    lab.dns.set("db.corp.example", A=["203.0.113.25", "127.0.0.1", pod.address])
    lab.dns.set("mixed.example", A=["203.0.113.25", "10.9.9.9"], AAAA=["2001:db8:113::25"])
    lab.dns.set("broken.example", rcode="SERVFAIL")

    def explain(target: str, *arguments: str, **env: str) -> str:
        found = pod.router.run(
            [*EXPLAIN, target, *arguments], env={"EGRESS_SOURCE": SOURCE[4], **env}, cwd=ROOT, timeout=60
        )
        return found.stdout

    text = explain("8080/tcp", EGRESS_DNS_PROXY_DESTINATION="8080 db 80")
    assert "db.corp.example. 3 IPv4 addresses" in text
    assert "203.0.113.25: used" in text
    assert "127.0.0.1: not used: it is a loopback address" in text
    assert f"{pod.address}: not used: it is an address of this pod" in text

    policy = "!10.0.0.0/8\n*.example"
    text = explain("http://mixed.example/", EGRESS_HTTP_PROXY_DESTINATION=policy)
    assert 'now denied: denied by line 1 "!10.0.0.0/8" (10.9.9.9)' in text
    assert '203.0.113.25: allowed by line 2 "*.example"' in text
    assert "2001:db8:113::25" not in text, "a family without a source does not count"
    text = explain("broken.example:443", EGRESS_HTTP_PROXY_DESTINATION=policy)
    assert "SERVFAIL" in text
    assert "no address that counts: 503" in text
    found = json.loads(explain("missing.example:443", "-o", "json", EGRESS_HTTP_PROXY_DESTINATION=policy))
    assert "does not exist" in json.dumps(found)
