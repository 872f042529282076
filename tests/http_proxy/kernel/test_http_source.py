"""The HTTP proxy's two containers, in both shapes and families: what leaves has EGRESS_SOURCE."""

from __future__ import annotations

import sys
import time

import pytest

from lab import Lab
from lab.servers import HttpServer
from tests.http_proxy.kernel.http_pod import Client, Proxy

pytestmark = pytest.mark.root

GOOD, GOOD6 = "203.0.113.25", "2001:db8:113::25"
SOURCE, SOURCE6 = "192.0.2.46", "2001:db8:2::46"
GATEWAYS = "192.0.2.1, 2001:db8:2::1"


@pytest.fixture
def servers(lab: Lab) -> list[HttpServer]:
    lab.dns.set("only4.example", A=[GOOD])
    lab.dns.set("only6.example", AAAA=[GOOD6])
    return [lab.http(GOOD, port=80), lab.http(GOOD6, port=80)]


def init(proxy: Proxy, sources: str, gateways: str = GATEWAYS, **more: str) -> None:
    """Run the init container in the pod, with the interface that the platform gives it."""
    proxy.lab.macvlan(proxy.pod)
    env = {"EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_SOURCE": sources, "EGRESS_GATEWAY": gateways, **more}
    proxy.pod.run([sys.executable, "-m", "egress_router", "init"], env=env | {"EGRESS_DAD": "off"}, timeout=60)


def test_leaves_with_the_source(lab: Lab, proxy: Proxy, client: Client, servers: list[HttpServer]) -> None:
    sources = f"{SOURCE}/24, {SOURCE6}/64"
    init(proxy, sources)
    proxy.start("*", {"EGRESS_SOURCE": sources})
    with lab.capture() as capture:
        for family in (4, 6):
            assert client.status(f"http://only{family}.example/") == 200
            assert client.tunnel(f"only{family}.example:80")[0] == 200
    assert [{request.peer for request in server.requests} for server in servers] == [{SOURCE}, {SOURCE6}]
    assert {str(source) for source in capture.sources()} == {SOURCE, SOURCE6}
    assert not capture.leaks(allowed={SOURCE, SOURCE6})


def test_without_the_variable_the_routes_decide(
    lab: Lab, proxy: Proxy, client: Client, servers: list[HttpServer]
) -> None:
    """Upstream's manifests set EGRESS_SOURCE for the init container alone."""
    init(proxy, f"{SOURCE}/24, {SOURCE6}/64")
    proxy.start("*")
    with lab.capture() as capture:
        assert client.status("http://only4.example/") == 200
        assert client.status("http://only6.example/") == 200
    assert {str(source) for source in capture.sources()} == {SOURCE, SOURCE6}


def test_a_family_without_a_source_cannot_leave(
    lab: Lab, proxy: Proxy, client: Client, servers: list[HttpServer]
) -> None:
    assert lab.tcp(proxy.pod, GOOD6, 80, payload="GET / HTTP/1.0\n\n"), "the control"
    init(proxy, SOURCE, "192.0.2.1")
    proxy.start("*", {"EGRESS_SOURCE": SOURCE})
    with lab.capture() as capture:
        assert client.status("http://only4.example/") == 200
        assert client.status("http://only6.example/") == 503
    assert {str(source) for source in capture.sources()} == {SOURCE}


def test_addresses_of_a_family_without_a_source_do_not_count(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Nor are they asked for: a name server that never answers AAAA delays nothing."""
    lab.http(GOOD, port=80)
    lab.dns.set("both.example", A=[GOOD], AAAA=["2001:db8:113::99"])
    lab.dns.set("only6.example", AAAA=[GOOD6])
    init(proxy, SOURCE, "192.0.2.1")
    proxy.start("203.0.113.0/24\nonly6.example", {"EGRESS_SOURCE": SOURCE})
    assert client.status("http://both.example/") == 200
    assert client.status("http://only6.example/") == 503
    (allowed, failed) = proxy.wait_for_log(2)
    assert (allowed["line"], allowed["server"]) == (1, GOOD)
    assert (failed["error"], failed["detail"]) == ("dns", "has no IPv4 address")
    assert {query.type for query in lab.dns.queries if query.name == "both.example"} == {"A"}


#: What Squid waits for answers that do not come is sixteen times as long.
AT_ONCE = 1.0


def types_asked(lab: Lab, name: str) -> set[str]:
    return {query.type for query in lab.dns.queries if query.name == name}


def timed(client: Client, url: str) -> tuple[int, float]:
    began = time.monotonic()
    return client.status(url), time.monotonic() - began


def test_ipv4_addresses_do_not_count_where_ipv6_alone_leads_outside(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Nor are they asked for: a name server that never answers A delays nothing."""
    lab.http(GOOD6, port=80)
    many = [f"2001:db8:113::1:{number:x}" for number in range(200)]
    lab.dns.set("both.example", A=["203.0.113.99"], AAAA=[GOOD6], silent=["A"])
    lab.dns.set("alias.example", CNAME="both.example", silent=["A"])
    lab.dns.set("many.example", AAAA=[*many, GOOD6], ttl=60)
    lab.dns.set("denied.example", AAAA=[*many[:-1], "2001:db8:114::1"], silent=["A"])
    lab.dns.set("only4.example", A=[GOOD])
    lab.dns.set("broken.example", rcode="SERVFAIL")
    init(proxy, f"{SOURCE6}/64", "2001:db8:2::1")
    proxy.write_policy("2001:db8:113::/48\nonly4.example\nnone.example\nbroken.example")
    proxy.start(None, {"EGRESS_SOURCE": SOURCE6, "EGRESS_HEALTH_PORT": "9909"})
    for name in ("both.example", "alias.example"):
        status, seconds = timed(client, f"http://{name}/")
        assert (status, seconds < AT_ONCE) == (200, True), (name, status, seconds)
    assert client.tunnel("both.example:80")[0] == 200
    # An answer that comes by TCP, and of which every address counts.
    assert client.status("http://denied.example/") == 403
    assert {query.transport for query in lab.dns.queries if query.name == "denied.example"} == {"udp", "tcp"}
    for name in ("only4.example", "none.example", "broken.example"):
        assert client.status(f"http://{name}/") == 503
    details = [(entry["decision"], entry.get("detail")) for entry in proxy.wait_for_log(7)[3:]]
    assert details[1:3] == [("allow", "has no IPv6 address"), ("allow", "does not exist")]
    assert "SERVFAIL" in str(details[3][1])
    asked = {name: types_asked(lab, name) for name in ("both.example", "alias.example", "only4.example")}
    assert asked == {name: {"AAAA"} for name in asked}
    proxy.write_policy("both.example")
    proxy.wait_for("generation 2 is in force")
    lab.dns.set("both.example", AAAA=[GOOD6], silent=["A"])
    status, seconds = timed(client, "http://both.example/")
    assert (status, seconds < AT_ONCE) == (200, True), "the next Squid asks the same server"
    page = proxy.pod.run(["curl", "-s", "http://127.0.0.1:9909/healthz?verbose"]).stdout
    assert "one-family" in page


def test_without_a_low_port_both_families_are_asked_for(lab: Lab, proxy: Proxy, client: Client) -> None:
    """The log says so; and it is the control of the test before this one."""
    lab.http(GOOD6, port=80)
    lab.dns.set("both.example", A=["203.0.113.99"], AAAA=[GOOD6], silent=["A"])
    init(proxy, f"{SOURCE6}/64", "2001:db8:2::1")
    proxy.pod.sysctl("net.ipv4.ip_unprivileged_port_start", 1024)
    proxy.start("2001:db8:113::/48", {"EGRESS_SOURCE": SOURCE6})
    assert "net.ipv4.ip_unprivileged_port_start to 53 or less" in proxy.err.read_text()
    with client.connect() as waiting:
        waiting.sendall(b"GET http://both.example/ HTTP/1.1\r\nHost: both.example\r\nConnection: close\r\n\r\n")
        waiting.settimeout(3)
        with pytest.raises(TimeoutError):
            waiting.recv(100)
    assert types_asked(lab, "both.example") == {"A", "AAAA"}


def test_who_starts_as_root_has_a_low_port(lab: Lab, proxy: Proxy, client: Client) -> None:
    """It is listened on before root is given up; a parent's name is asked for in one family, too."""
    lab.http(GOOD6, port=3128)
    lab.dns.set("parent.example", A=["203.0.113.99"], AAAA=[GOOD6], silent=["A"])
    init(proxy, f"{SOURCE6}/64", "2001:db8:2::1")
    proxy.pod.sysctl("net.ipv4.ip_unprivileged_port_start", 1024)
    env = {"EGRESS_SOURCE": SOURCE6, "EGRESS_HTTP_PROXY_PARENT": "http://parent.example:3128"}
    proxy.start("*", env, become=[])
    assert "53 or less" not in proxy.err.read_text()
    assert client.status("http://any.example/") == 200
    assert types_asked(lab, "parent.example") == {"AAAA"}


def test_ipv6_addresses_are_not_asked_for_where_only_clients_have_it(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.http(GOOD, port=80)
    lab.dns.set("both.example", A=[GOOD], AAAA=["2001:db8:113::99"], silent=["AAAA"])
    init(proxy, SOURCE, "192.0.2.1")
    proxy.start("203.0.113.0/24", {"EGRESS_SOURCE": SOURCE, "EGRESS_HTTP_PROXY_IPV6_CLIENTS": "on"})
    status, seconds = timed(client, "http://both.example/")
    assert (status, seconds < AT_ONCE) == (200, True)
    assert types_asked(lab, "both.example") == {"A"}


def test_addresses_that_carry_a_denied_ipv4_address(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Through a real Squid, by name and spelled out. The pod has a route to every one of these forms."""
    denied = ["64:ff9b::a2a:fd01", "2002:a2a:fd01::1", "::a2a:fd01", "::ffff:0:a2a:fd01", "64:ff9b:1::a2a:fd01"]
    closed = ["64:ff9b::a9fe:a9fe", "64:ff9b:1:2::1", "2001:0:4136:e378:8000:63bf:f5d5:2fe", "fd00:ec2::254"]
    closed += ["2001:db8:113::5efe:10.42.253.1", "2002:7f00:1::1"]
    for number, address in enumerate([*denied, *closed]):
        lab.dns.set(f"name{number}.example", A=[GOOD], AAAA=[address])
    lab.dns.set("fine.example", A=[GOOD], AAAA=[GOOD6])
    lab.http(GOOD, port=80)
    lab.http(GOOD6, port=80)
    proxy.start("!10.42.253.0/24\n*")
    assert client.status("http://fine.example/") == 200, "the control"
    for number, address in enumerate([*denied, *closed]):
        assert client.status(f"http://[{address}]/") == 403, address
        assert client.status(f"http://name{number}.example/") == 403, address
        entry = proxy.wait_for_log(3 + 2 * number)[1 + 2 * number]
        assert entry["line"] == (1 if address in denied else None), entry


def test_the_cluster_is_closed(lab: Lab, proxy: Proxy, client: Client) -> None:
    """What the routes send by the cluster's interface is reached by a line for exactly that address alone."""
    inside = lab.pod("inside")
    address = str(inside.addresses[4])
    server = lab.http(address, port=80, host=inside)
    lab.http(GOOD, port=80)
    lab.dns.set("rebound.example", A=[address])
    lab.dns.set("good.example", A=[GOOD])
    init(proxy, SOURCE, "192.0.2.1", EGRESS_CLUSTER_CIDRS="198.51.100.0/24")
    env = {"EGRESS_SOURCE": SOURCE}
    proxy.write_policy("*")
    proxy.start(None, env)
    assert client.status("http://good.example/") == 200, "the control"
    assert client.status(f"http://{address}/") == 403
    assert client.status("http://rebound.example/") == 403
    assert {entry.get("reason") for entry in proxy.wait_for_log(3)[1:]} == {"a closed address"}
    proxy.write_policy(f"{address}\n*")
    proxy.wait_for("generation 2 is in force")
    # By the cluster's interface, so not with EGRESS_SOURCE, which the pod there could not answer.
    assert client.status(f"http://{address}/") == 200
    assert server.requests[-1].peer == str(proxy.pod.addresses[4])
    assert client.status("http://good.example/") == 200
