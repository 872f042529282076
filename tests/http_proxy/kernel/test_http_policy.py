"""What the policy must hold against, with real Squid and a real DNS server. Every refusal has its control."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.config import SquidPlace, render_squid
from egress_router.policy.compile import compile_policy
from lab import Lab
from lab.servers import HttpServer
from tests.http_proxy.kernel.http_pod import PORT, RESTRICTED, Client, Proxy
from tests.http_proxy.unit.strategies import parse

# What Squid decides and does not depend on how pods are connected.
pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD, BAD = "203.0.113.25", "203.0.113.26"
GOOD6, BAD6 = "2001:db8:113::25", "2001:db8:113::26"


def reachable(proxy: Proxy, url: str) -> bool:
    """The control: without the proxy the router pod itself reaches it."""
    return proxy.pod.run(["curl", "-sS", "-g", "-m", "5", "-o", "/dev/null", "-f", url], check=False).returncode == 0


def test_the_scene_of_the_seed(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.dns.set("free.fr", A=[GOOD])
    lab.dns.set("perdu.com", A=[BAD])
    lab.http(GOOD, port=80)
    bad = lab.http(BAD, port=80)
    assert reachable(proxy, "http://perdu.com/")
    before = len(bad.requests)
    proxy.start("!perdu.com\n!*.perdu.com\n!10.42.253.0/24\n*")
    assert client.status("http://free.fr/") == 200
    assert client.status("http://perdu.com/") == 403
    assert client.status("http://PERDU.com./") == 403
    assert len(bad.requests) == before


def test_no_reverse_look_up_opens_a_literal_address(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.dns.set("www.example.com", A=[GOOD])
    lab.dns.set_ptr(BAD, "evil.example.com")
    lab.http(GOOD, port=80)
    bad = lab.http(BAD, port=80)
    assert reachable(proxy, f"http://{BAD}/")
    before = len(bad.requests)
    proxy.start("*.example.com")
    assert client.status("http://www.example.com/") == 200
    assert client.status(f"http://{BAD}/") == 403
    assert client.tunnel(f"{BAD}:80")[0] == 403
    assert len(bad.requests) == before
    assert not [query for query in lab.dns.queries if query.type == "PTR"]


@pytest.mark.parametrize(
    "policy", [f"!{BAD}\n!{BAD6}\n*", f"!{BAD}\n!{BAD6}\n*.mixed.example", f"{GOOD}\n{GOOD6}\nonly.example"]
)
def test_a_mixed_name_never_reaches_the_forbidden_address(lab: Lab, proxy: Proxy, client: Client, policy: str) -> None:
    servers = {address: lab.http(address, port=80) for address in (GOOD, BAD, GOOD6, BAD6)}
    lab.dns.set("pure.mixed.example", A=[GOOD], AAAA=[GOOD6])
    lab.dns.set("v4.mixed.example", A=[GOOD, BAD])
    lab.dns.set("v6.mixed.example", A=[GOOD], AAAA=[GOOD6, BAD6])
    lab.dns.set("across.mixed.example", A=[BAD], AAAA=[GOOD6])
    lab.dns.set("alias.mixed.example", CNAME="v4.mixed.example")
    for name in ("v4", "v6", "across"):
        assert reachable(proxy, f"http://{name}.mixed.example/")
    before = {address: len(server.requests) for address, server in servers.items()}
    proxy.start(policy)
    for _ in range(3):
        assert client.status("http://pure.mixed.example/") == 200
        for name in ("v4", "v6", "across", "alias"):
            assert client.status(f"http://{name}.mixed.example/") == 403
            assert client.tunnel(f"{name}.mixed.example:80")[0] == 403
    assert len(servers[BAD].requests) == before[BAD]
    assert len(servers[BAD6].requests) == before[BAD6]
    assert len(servers[GOOD].requests) + len(servers[GOOD6].requests) == before[GOOD] + before[GOOD6] + 3


def test_the_second_look_alone_holds(lab: Lab, proxy: Proxy, client: Client) -> None:
    """DNS may answer differently between Squid's decision and its connection. Here the decision is always yes."""
    servers = {address: lab.http(address, port=80) for address in (GOOD, BAD, GOOD6, BAD6)}
    inside = lab.http("127.0.0.1", port=80, host=proxy.pod)
    lab.dns.set("good.example", A=[GOOD], AAAA=[GOOD6])
    lab.dns.set("bad.example", A=[BAD], AAAA=[BAD6])
    lab.dns.set("mixed.example", A=[GOOD, BAD], AAAA=[BAD6])
    lab.dns.set("inside.example", A=["127.0.0.1"])
    lab.dns.set("zero.example", A=["0.0.0.0"])
    assert reachable(proxy, "http://bad.example/")
    assert reachable(proxy, "http://inside.example/")
    assert reachable(proxy, "http://zero.example/"), "Linux connects 0.0.0.0 to loopback"
    before = {address: len(server.requests) for address, server in servers.items()}
    inside_before = len(inside.requests)
    place = SquidPlace(directory=str(proxy.run_directory))
    files = render_squid(compile_policy(parse(f"!{BAD}\n!{BAD6}\n*")), HttpSettings(access_log=False), place)
    conf = re.sub(r"^http_access deny .*\n", "", files["squid.conf"], flags=re.MULTILINE)
    assert re.findall("^http_access .*", conf, re.MULTILINE) == ["http_access allow all rule_3"]
    for name, text in (files | {"squid.conf": conf}).items():
        (proxy.run_directory / name).write_text(text)
    command = [*RESTRICTED, "squid", "-N", "-n", "ersecond", "-f", str(proxy.run_directory / "squid.conf")]
    squid = proxy.pod.popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until_listening(client)
        refused = ["bad.example", "mixed.example", "inside.example", "zero.example", BAD, f"[{BAD6}]", "127.0.0.1", "0"]
        for _ in range(3):
            for host in refused:
                assert client.status(f"http://{host}/") in (500, 503)
                assert client.tunnel(f"{host}:80")[0] in (500, 503)
        statuses = [client.status("http://good.example/") for _ in range(3)]
        assert statuses[1:] == [200, 200], "the same Squid does connect to what is allowed"
    finally:
        squid.kill()
        squid.wait()
        for stale in Path("/dev/shm").glob("ersecond*"):
            stale.unlink()
    assert len(servers[BAD].requests) == before[BAD]
    assert len(servers[BAD6].requests) == before[BAD6]
    assert len(inside.requests) == inside_before


def wait_until_listening(client: Client) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            client.connect().close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def test_rebinding(lab: Lab, proxy: Proxy, client: Client) -> None:
    """A name server that changes its mind all the time, between a public address and one in the pod."""
    good = lab.http(GOOD, port=80)
    inside = lab.http("127.0.0.1", port=80, host=proxy.pod)
    lab.dns.set("control.example", A=["127.0.0.1"])
    assert reachable(proxy, "http://control.example/")
    before = len(inside.requests)
    proxy.start("*", {"EGRESS_HTTP_PROXY_ACCESS_LOG": "off"})
    seen = set()
    for number in range(150):
        name = f"n{number % 30}.rebind.example"
        lab.dns.set(name, A=[GOOD if number % 2 else "127.0.0.1"], ttl=0)
        seen.add(client.status(f"http://{name}/"))
    assert seen >= {200, 403}
    assert len(good.requests) > 20
    assert len(inside.requests) == before


CLOSED = ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0", "0.0.0.0"]
CLOSED += ["[::]", "[::ffff:7f00:1]", "169.254.169.254", "[::ffff:169.254.169.254]", "localhost"]


def test_closed_addresses_under_the_wildcard(lab: Lab, proxy: Proxy, client: Client) -> None:
    proxy.pod.add_addresses(["169.254.169.254"])
    own, own6 = proxy.pod.addresses[4], proxy.pod.addresses[6]
    closed = [*CLOSED, str(own), f"[{own6}]", f"[::ffff:{own}]"]
    inside: list[HttpServer] = [
        lab.http(address, port=9000, host=proxy.pod)
        for address in ("127.0.0.1", "::1", "169.254.169.254", str(own), str(own6))
    ]
    lab.dns.set("loop.example", A=["127.0.0.1"])
    lab.dns.set("loop6.example", AAAA=["::1"])
    lab.dns.set("mapped.example", AAAA=["::ffff:127.0.0.1"])
    lab.dns.set("metadata.example", A=["169.254.169.254"])
    lab.dns.set("self.example", A=[str(own)], AAAA=[str(own6)])
    closed += [f"{name}.example" for name in ("loop", "loop6", "mapped", "metadata", "self")]
    unreachable = [host for host in closed if not reachable(proxy, f"http://{host}:9000/")]
    assert unreachable in ([], ["mapped.example"]), "the control; resolvers may drop a mapped answer"
    lab.dns.set("public.example", A=[GOOD])
    lab.http(GOOD, port=9000)
    before = [len(server.requests) for server in inside]
    proxy.start("*")
    assert client.status("http://public.example:9000/") == 200
    for host in closed:
        status = client.status(f"http://{host}:9000/")
        assert status == 403, host
        assert client.tunnel(f"{host}:9000")[0] == 403, host
    assert [len(server.requests) for server in inside] == before


def test_the_manager_is_closed(lab: Lab, proxy: Proxy, client: Client) -> None:
    proxy.start(f"*.example\n{proxy.address}\n127.0.0.1\n*")
    own = f"{proxy.address}:{PORT}"
    requests = [
        f"GET http://{own}/squid-internal-mgr/info HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n",
        f"GET /squid-internal-mgr/info HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n",
        "GET /squid-internal-mgr/menu HTTP/1.0\r\n\r\n",
        "GET cache_object://localhost/info HTTP/1.0\r\n\r\n",
        f"GET cache_object://{own}/menu HTTP/1.0\r\n\r\n",
        f"GET http://egress-router:{PORT}/squid-internal-mgr/info HTTP/1.1\r\nHost: egress-router\r\n\r\n",
    ]
    for request in requests:
        reply = client.raw(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode())
        assert int(reply.split()[1]) in (400, 403), (request, reply[:200])
        assert b"Start Time" not in reply
        assert b"mgr" not in reply.split(b"\r\n\r\n", 1)[0].lower()


def test_an_explicit_line_opens_exactly_one_address(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.http("127.0.0.1", port=9000, host=proxy.pod)
    lab.http("127.0.0.2", port=9000, host=proxy.pod)
    lab.http(str(proxy.pod.addresses[4]), port=9000, host=proxy.pod)
    lab.dns.set("loop.example", A=["127.0.0.1"])
    lab.dns.set("loops.example", A=["127.0.0.1", "127.0.0.2"])
    assert reachable(proxy, "http://127.0.0.2:9000/")
    proxy.start("127.0.0.1:9000\n127.0.0.0/8\n0.0.0.0/0\n*")
    assert client.status("http://127.0.0.1:9000/") == 200
    assert client.status("http://127.1:9000/") == 200
    assert client.status("http://loop.example:9000/") == 200
    assert client.status("http://loops.example:9000/") == 403
    assert client.status("http://127.0.0.2:9000/") == 403
    assert client.status(f"http://127.0.0.1:{PORT}/") == 403
    assert client.status(f"http://{proxy.address}:9000/") == 403


def test_ports_and_schemes(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.dns.set("www.example.com", A=[GOOD])
    for port in (80, 443, 8443):
        lab.http(GOOD, port=port)
    proxy.start("www.example.com:80,443", {"EGRESS_HTTP_PROXY_CONNECT_PORTS": "443"})
    assert client.status("http://www.example.com/") == 200
    assert client.status("http://www.example.com:443/") == 200
    assert client.status("http://www.example.com:8443/") == 403
    assert client.tunnel("www.example.com:443")[0] == 200
    assert client.tunnel("www.example.com:80")[0] == 403
    assert client.status("ftp://www.example.com:80/") == 403
    purge = b"PURGE http://www.example.com/ HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n"
    assert client.raw(purge).split()[1] == b"403"
    host_lies = b"GET http://other.example/ HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n"
    assert client.raw(host_lies).split()[1] == b"403"


def test_denied_names_are_not_looked_up(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.dns.set("www.example.com", A=[GOOD])
    lab.http(GOOD, port=80)
    proxy.start("www.example.com\n!*.example.com")
    assert client.status("http://www.example.com/") == 200
    assert client.status("http://secret-data.exfiltrated.example/") == 403
    assert client.status("http://secret-data.example.com/") == 403
    assert client.status("http://other.example.org/") == 403
    names = {query.name.rstrip(".") for query in lab.dns.queries}
    assert "www.example.com" in names
    assert not any("secret" in name for name in names)


def test_a_bad_new_policy_changes_nothing(lab: Lab, proxy: Proxy, client: Client) -> None:
    """A bad new policy is reported, counted, and the old one stays in force."""
    lab.dns.set("a.example", A=[GOOD])
    lab.dns.set("b.example", A=[GOOD])
    lab.http(GOOD, port=80)
    proxy.write_policy("a.example\n")
    proxy.start()
    assert (client.status("http://a.example/"), client.status("http://b.example/")) == (200, 403)
    proxy.write_policy("b.example\n10.0.0.0/33\nfoo bar\n")
    seen = proxy.wait_for("reload refused")
    assert "generation 1" in seen
    assert "line 2" in seen
    assert "line 3" in seen
    assert (client.status("http://a.example/"), client.status("http://b.example/")) == (200, 403)
    assert '"reload_failures": 1' in (proxy.run_directory / "status.json").read_text()
    proxy.write_policy("b.example\n")
    proxy.wait_for("generation 3 is in force")
    assert (client.status("http://a.example/"), client.status("http://b.example/")) == (403, 200)
    proxy.write_policy("a.example\nb.example\n")
    assert proxy.process
    proxy.process.send_signal(signal.SIGHUP)
    proxy.wait_for("generation 4 is in force")
    assert (client.status("http://a.example/"), client.status("http://b.example/")) == (200, 200)


def test_no_spelling_gets_around_a_denied_name(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.dns.set("perdu.com", A=[BAD])
    lab.dns.set("www.perdu.com", A=[BAD])
    lab.dns.set("free.fr", A=[GOOD])
    bad = lab.http(BAD, port=80)
    lab.http(GOOD, port=80)
    assert reachable(proxy, "http://perdu.com/")
    before = len(bad.requests)
    proxy.start("!perdu.com\n!*.perdu.com\n*")
    assert client.status("http://free.fr/") == 200
    opened: list[str] = []
    hosts = [
        "perdu.com",
        "PERDU.com",
        "perdu.com.",
        "perdu.com..",
        ".perdu.com",
        "..perdu.com",
        "perdu..com",
        "perdu.com:80",
    ]
    hosts += [
        "free.fr@perdu.com",
        "free.fr:80@perdu.com",
        "free.fr%40perdu.com",
        "perdu%2ecom",
        "%70erdu.com",
        "perdu.com:080",
    ]
    hosts += [
        "www.perdu.com",
        "WWW.Perdu.Com.",
        "perdu.com%00",
        "perdu.com%20",
        "perdu.com\\",
        "perdu.com#free.fr",
        "[perdu.com]",
    ]
    hosts += [
        "ｐerdu.com",
        "perdu。com",
        "perdu.com?",
        "perdu.com;free.fr",
        "perdu.com,free.fr",
        "perdu.com\t",
        "perdu.com:80:80",
    ]
    for host in hosts:
        for request in (
            f"GET http://{host}/ HTTP/1.1\r\nHost: free.fr\r\n",
            f"GET HTTP://{host}/ HTTP/1.0\r\nHost: {host}\r\n",
            f"CONNECT {host} HTTP/1.1\r\nHost: free.fr\r\n",
            f"CONNECT {host}:80 HTTP/1.1\r\nHost: free.fr\r\n",
            f"GET / HTTP/1.1\r\nHost: {host}\r\n",
            f"GET //{host}/ HTTP/1.1\r\nHost: {host}\r\n",
        ):
            with client.connect() as connection:
                connection.sendall(f"{request}Connection: close\r\n\r\n".encode())
                connection.settimeout(3)
                reply = connection.recv(65536)
            if b"200" in reply[:20]:
                opened.append(request.split("\r\n")[0])
    # To CONNECT, what stands before the first port is the host; that is the allowed server.
    assert all(request.startswith("CONNECT free.fr:80") for request in opened), opened
    assert len(bad.requests) == before
