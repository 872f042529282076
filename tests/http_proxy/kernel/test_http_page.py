"""The HTTP proxy's page: what each line has decided, who was denied what, and a question asked there."""

from __future__ import annotations

from html import unescape

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy
from tests.support.endpoint import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD = "203.0.113.25"
POLICY = "!perdu.example\n*.example\n[from 10.99.0.0/16]\n203.0.113.99\n"


def test_page(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.http(GOOD, port=80)
    lab.dns.set("free.example", A=[GOOD])
    proxy.write_policy(POLICY)
    proxy.start()
    endpoint = Endpoint(client.pod, proxy.address)
    endpoint.until(endpoint.ready, "the proxy is ready")

    def shows(text: str, query: str = "") -> bool:
        status, page = endpoint.get(f"/{query}")
        assert status == 200, page
        return text in unescape(page)

    assert [client.status(f"http://{host}/") for host in ("free.example", "perdu.example")] == [200, 403]
    endpoint.until(lambda: shows('line 1 "!perdu.example"'), "who was denied what")
    assert shows("perdu.example:80")
    assert shows("Squid on port 8080")
    assert shows('allowed by line 2 "*.example"', "?target=free.example:443&client=10.1.2.3")
    assert shows('denied by line 1 "!perdu.example"', "?target=http://perdu.example/")
    assert shows("for clients of line 3", "?target=203.0.113.99:443"), "all that the policy tells apart"
    assert shows("denied: no line matches", "?target=203.0.113.99:443&client=10.1.2.3")
    assert shows('allowed by line 4 "203.0.113.99"', "?target=203.0.113.99:443&client=10.99.2.3")
    assert shows("is not", "?target=nonsense")
    proxy.write_policy("*.example\n")
    endpoint.until(lambda: shows("− <code>!perdu.example</code>"), "what the reload changed", 30)
    proxy.write_policy("bad line of words\n")
    endpoint.until(lambda: shows("the list is refused"), "a refused list", 30)
