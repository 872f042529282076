"""The HTTP proxy's health and figures: true in trouble, open to the cluster, and nothing else of Squid's is."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from egress_router import __version__
from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy
from tests.support.endpoint import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD, DEAD = "203.0.113.25", "203.0.113.26"
REQUESTS = "egress_router_http_requests_total"
DESTINATION = "egress_router_destination_requests_total"
ERRORS = "egress_router_http_request_errors_total"


@pytest.fixture
def endpoint(lab: Lab, client: Client) -> Endpoint:
    """The proxy's endpoint; there is a server for its clients."""
    lab.http(GOOD, port=80)
    return Endpoint(client.pod, client.proxy.address)


@pytest.mark.parametrize("access_log", ["on", "off"])
def test_requests_are_counted(proxy: Proxy, client: Client, endpoint: Endpoint, access_log: str) -> None:
    """Also where the access log is off."""
    proxy.lab.echo(GOOD, tcp=[443])
    proxy.lab.dns.set("free.example", A=[GOOD])
    proxy.lab.dns.set("perdu.example", A=[GOOD])
    proxy.write_policy(f"!perdu.example\nfree.example\n*.example\n{GOOD}:443\n{DEAD}\n")
    proxy.start(env={"EGRESS_HTTP_PROXY_ACCESS_LOG": access_log})
    endpoint.until(endpoint.ready, "the proxy is ready")
    assert endpoint.healthy()
    hosts = ("free.example", "perdu.example", "gone.example", DEAD)
    assert [client.status(f"http://{host}/") for host in hosts] == [200, 403, 503, 503]
    assert client.tunnel("gone.example:443")[0] >= 500
    assert client.status("http://203.0.113.99/") == 403
    client.raw(b"no request\r\n\r\n")
    status, tunnel = client.tunnel(f"{GOOD}:443")
    assert status == 200
    figures = endpoint.figures()
    assert figures["egress_router_http_tunnels"] == 1
    assert figures["egress_router_http_client_connections"] == 1
    tunnel.close()
    endpoint.until(lambda: endpoint.figure(f'{REQUESTS}{{decision="allow"}}') == 5, "the tunnel is counted")
    figures = endpoint.figures()
    assert [figures[f'{REQUESTS}{{decision="{word}"}}'] for word in ("allow", "deny", "invalid")] == [5, 2, 1]
    lines = {name.partition('"')[2][:-2]: value for name, value in figures.items() if name.startswith(DESTINATION)}
    assert lines == {"!perdu.example": 1, "free.example": 1, "*.example": 2, f"{GOOD}:443": 1, DEAD: 1}
    assert figures[f'{ERRORS}{{reason="dns"}}'] == 2
    assert figures[f'{ERRORS}{{reason="connect"}}'] == 1
    assert figures["egress_router_http_sent_bytes_total"] > 1000
    assert figures["egress_router_http_client_connections"] == figures["egress_router_http_tunnels"] == 0
    # Two names, A and AAAA; the second request for the missing one is answered by what is known of it.
    assert figures["egress_router_dns_queries_total"] >= 4
    assert figures['egress_router_dns_replies_total{code="noerror"}'] >= 2
    assert figures['egress_router_dns_replies_total{code="nxdomain"}'] >= 2
    assert figures['egress_router_log_lines_lost_total{by="supervisor"}'] == 0
    endpoint.check_figures("http-proxy")
    # Our own questions to Squid are neither in the log nor in the figures.
    if access_log == "on":
        assert len(proxy.wait_for_log(8)) == 8
    else:
        assert proxy.out.read_text() == ""


def test_reloads_and_deaths_are_counted(proxy: Proxy, client: Client, endpoint: Endpoint) -> None:
    ok, failed = (f'egress_router_reloads_total{{result="{word}"}}' for word in ("ok", "failed"))
    good = "egress_router_last_reload_successful"
    proxy.write_policy("*\n")
    proxy.start()
    assert endpoint.figure("egress_router_ready") == 1
    assert endpoint.figure('egress_router_build_info{mode="http-proxy",version="' + __version__ + '"}') == 1
    proxy.write_policy("foo bar\n")
    endpoint.until(lambda: endpoint.figure(failed) == 1, "the bad policy is counted")
    figures = endpoint.figures()
    assert (figures[ok], figures[good]) == (0, 0)
    assert endpoint.ready(), "the old policy serves"
    assert "foo bar" in json.loads(endpoint.get("/status")[1])["last_error"]
    os.kill(proxy.squid_pids()[0], signal.SIGKILL)
    proxy.wait_for("generation 3 is in force")
    figures = endpoint.figures()
    assert (figures["egress_router_engine_restarts_total"], figures[good]) == (1, 0), "the file is still bad"
    proxy.write_policy("!example.com\n*\n")
    endpoint.until(lambda: endpoint.figure(good) == 1, "the good policy is in force")
    assert endpoint.figure(ok) == 1
    assert client.status(f"http://{GOOD}/") == 200


def test_a_squid_that_hangs_is_unready_but_its_supervisor_is_healthy(
    proxy: Proxy, client: Client, endpoint: Endpoint
) -> None:
    proxy.start("*")
    endpoint.until(endpoint.ready, "the proxy is ready")
    squid = proxy.squid_pids()[0]
    os.kill(squid, signal.SIGSTOP)
    endpoint.until(lambda: endpoint.unready("squid does not answer on"), "the hang is seen")
    assert endpoint.healthy()
    assert "egress_router_http_tunnels" not in endpoint.figures()
    os.kill(squid, signal.SIGCONT)
    endpoint.until(endpoint.ready, "the proxy is ready again")
    # What still runs keeps the proxy leaving, and it says so at once.
    status, tunnel = client.tunnel(f"{GOOD}:80")
    assert status == 200
    os.kill(proxy.supervisor_pid(), signal.SIGTERM)
    endpoint.until(lambda: endpoint.unready("leaving"), "it leaves")
    assert endpoint.healthy()
    tunnel.close()
    assert proxy.process
    assert proxy.process.wait(20) == 0


def test_the_cache_manager_stays_closed(proxy: Proxy, client: Client, endpoint: Endpoint) -> None:
    proxy.start("*")
    endpoint.until(endpoint.ready, "the proxy is ready")
    conf = next(proxy.run_directory.glob("generation-*/squid.conf"))
    secret = conf.read_text().partition("X-Egress-Router ^")[2].partition("$")[0]
    assert len(secret) == 32
    request = (
        "GET /squid-internal-mgr/info HTTP/1.1\r\nHost: {}:8080\r\nConnection: close\r\nX-Egress-Router: {}\r\n\r\n"
    )
    assert b"403" in client.raw(request.format(proxy.address, secret).encode()).split(b"\r\n")[0], "another address"
    answers = []
    for key in ("0" * 32, secret):
        with proxy.pod.socket(socket.AF_INET, socket.SOCK_STREAM) as loopback:
            loopback.connect(("127.0.0.1", 8080))
            loopback.sendall(request.format("127.0.0.1", key).encode())
            answers.append(loopback.recv(200).split()[1])
    assert answers == [b"403", b"200"]


def test_a_reader_of_the_log_that_stalls_stops_nothing(proxy: Proxy, client: Client, endpoint: Endpoint) -> None:
    """The log fills the pipe, then our memory for it; the rest is lost and counted, and the log goes on afterwards."""
    name = ".".join(["x" * 60] * 4)
    read_end, write_end = os.pipe()
    proxy.start(f"!{name}\n*", stdout=write_end)
    os.close(write_end)
    url = f"http://{name}/[1-8000]"
    command = ["curl", "-s", "-m", "60", "-w", "%{http_code}\\n", "-o", "/dev/null", "-x", f"{proxy.address}:8080", url]
    answers = client.pod.run(command, timeout=70).stdout.split()
    assert answers == ["403"] * 8000
    denied = f'{REQUESTS}{{decision="deny"}}'
    endpoint.until(lambda: endpoint.figure(denied) == 8000, "all are counted")
    lost = int(endpoint.figure('egress_router_log_lines_lost_total{by="supervisor"}'))
    assert 0 < lost < 8000
    with os.fdopen(read_end, "rb") as log:
        for _ in range(8000 - lost):
            assert json.loads(log.readline())["decision"] == "deny"
        proxy.wait_for(f"{lost} lines of the access log were lost")
        assert client.status(f"http://{GOOD}/") == 200
        assert json.loads(log.readline())["decision"] == "allow"
    assert client.status(f"http://{GOOD}/") == 200, "nobody will ever read it: that is no reason either"
