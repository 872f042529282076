"""The DNS proxy's page: what its names have, what its lines carried, and a question asked there."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

from lab import Lab
from tests.dns_proxy.kernel.dns_proxy_pod import DnsProxyPod
from tests.support.endpoint import Endpoint

pytestmark = pytest.mark.root

GOOD = "203.0.113.25"
LIST = f"80 {GOOD}\n8080 example.com 80\n81 nowhere.example.com 80\n"
BY_NAME = "!denied.example.com\n*.example.com\n"


@pytest.mark.parametrize("shape", ["bridge"])
def test_page(lab: Lab, open_directory: Path) -> None:
    lab.echo(GOOD, tcp=[80])
    lab.dns.set("example.com", A=[GOOD])
    more = {"TLS_PROXY_DESTINATION": BY_NAME, "TLS_PROXY_HTTP_PORTS": "8081"}
    with DnsProxyPod(lab, open_directory, LIST, families="4", **more) as pod:
        endpoint = Endpoint(pod.client, pod.address)

        def shows(text: str, query: str = "") -> bool:
            status, page = endpoint.get(f"/{query}")
            assert status == 200, page
            return text in unescape(page)

        assert pod.served(8080, 3) == {GOOD: 3}
        endpoint.until(lambda: shows('<td class="n">3</td>'), "three connections are counted")
        assert shows("no address: nowhere.example.com. does not exist")
        assert shows("by name: denies")
        assert shows('line 2 "8080 example.com 80" sends it to', "?target=8080")
        assert shows("no line claims it", "?target=9999/tcp")
        assert shows('denied by line 1 "!denied.example.com"', "?target=denied.example.com:443")
        assert shows('allowed by line 2 "*.example.com"', "?target=A.example.com:443")
        assert shows("nothing listens for names on port 444", "?target=a.example.com:444")
        assert shows("is an address, not a name", f"?target={GOOD}:443")
        curl = [
            "curl",
            "-sk",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-H",
            "Host: denied.example.com",
            f"http://{pod.address}:8081/",
        ]
        pod.client.run(curl, check=False)
        endpoint.until(lambda: shows("denied.example.com:8081"), "who was refused what")
        with pod.list.open("a") as file:
            file.write(f"83 {GOOD} 80\n")
        endpoint.until(lambda: shows(f"+ <code>83 {GOOD} 80</code>"), "what the reload changed", 30)
