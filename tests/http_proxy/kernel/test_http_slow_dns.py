"""Name servers that answer late or never, while the HTTP proxy reloads or stops."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy

# What Squid decides and does not depend on how pods are connected.
pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD, TUNNELLED = "203.0.113.25", "203.0.113.26"
#: The address line makes the policy's decision wait for DNS.
POLICY = "!10.0.0.0/8\n*.example\n"
#: What Squid takes to give a name up.
NEVER_SECONDS = 16


@pytest.fixture(autouse=True)
def servers(lab: Lab) -> None:
    lab.http(GOOD, port=80)
    lab.echo(TUNNELLED, tcp=[443])


def ask(client: Client, host: str, headers: str = "Connection: close\r\n") -> socket.socket:
    """Send a request and do not wait for the answer."""
    connection = client.connect()
    connection.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
    return connection


def ask_tunnel(client: Client, target: str) -> socket.socket:
    connection = client.connect()
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    return connection


def status(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(4096).split()[1])


def test_requests_that_wait_for_dns_survive_a_reload(lab: Lab, proxy: Proxy, client: Client) -> None:
    """They are at every point of it: before the successor is there, while the old Squid settles, and after."""
    late = [f"late-{number}.example" for number in range(12)]
    for number, name in enumerate(late):
        lab.dns.set(name, A=[TUNNELLED if number % 3 == 2 else GOOD], delay=3, ttl=60)
    lab.dns.set("never.example", drop=True)
    proxy.write_policy(POLICY)
    proxy.start(env={"EGRESS_HTTP_PROXY_WORKERS": "2"})
    kept = ask(client, GOOD, "")
    assert b"403" in kept.recv(4096), "the control: an address that no line allows, on a connection that is kept"
    never = ask(client, "never.example")
    waiting = []
    for number, name in enumerate(late):
        if number % 3 == 2:
            waiting.append(ask_tunnel(client, f"{name}:443"))
        else:
            waiting.append(ask(client, name, "Connection: close\r\n" if number % 3 else ""))
        if number == 4:
            proxy.write_policy(POLICY + "!other.example\n")
        time.sleep(0.3)
    kept.sendall(b"GET http://late-0.example/ HTTP/1.1\r\nHost: late-0.example\r\n\r\n")
    proxy.wait_for("generation 2 is in force")
    assert [status(connection) for connection in waiting] == [200] * len(late)
    assert status(kept) == 200
    never.settimeout(NEVER_SECONDS + 5)
    with never:
        reply = never.recv(4096)
    assert int(reply.split()[1]) == 503
    assert b"The name of the server cannot be resolved" in reply
    proxy.wait_for("generation 1 is drained")
    by_host = {entry["host"]: (entry["decision"], entry["line"]) for entry in proxy.wait_for_log(len(late) + 3)}
    assert by_host == dict.fromkeys([*late, "never.example"], ("allow", 2)) | {GOOD: ("deny", None)}


def test_requests_that_wait_for_dns_are_answered_before_the_end(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.dns.set("late.example", A=[GOOD], delay=2)
    lab.dns.set("tunnel.example", A=[TUNNELLED], delay=2)
    proxy.start(POLICY)
    waiting = [ask(client, "late.example"), ask_tunnel(client, "tunnel.example:443")]
    time.sleep(0.3)
    os.kill(proxy.supervisor_pid(), signal.SIGTERM)
    assert [status(connection) for connection in waiting] == [200, 200]
    assert proxy.process
    assert proxy.process.wait(5) == 0


def test_a_name_server_that_never_answers_does_not_hold_up_the_end(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.dns.set("never.example", drop=True)
    proxy.start(POLICY, {"EGRESS_SHUTDOWN_GRACE": "2"})
    with ask(client, "never.example"):
        time.sleep(0.3)
        began = time.monotonic()
        assert proxy.stop(12) == 0
        assert time.monotonic() - began > 1.5, "the control: it was waited for"
    assert "time is over" in proxy.err.read_text()
