"""What clients and operators see of a request that fails, of tunnels that stay silent, and of WebSocket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy
from tests.support.endpoint import Endpoint

pytestmark = pytest.mark.root

GOOD = "203.0.113.25"


@pytest.fixture
def shape() -> str:
    """How packets leave is another test's question."""
    return "bridge"


def last(proxy: Proxy, count: int) -> dict[str, Any]:
    return proxy.wait_for_log(count)[-1]


def test_the_log_says_why_a_request_failed(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.http(GOOD, port=80)
    lab.dns.set("good.example", A=[GOOD])
    lab.dns.set("broken.example", rcode="SERVFAIL")
    lab.dns.set("refused.example", rcode="REFUSED")
    lab.dns.set("empty.example")
    proxy.start("*")
    asked: list[tuple[str, int, str, str]] = [
        ("good.example:80", 200, "", ""),
        ("missing.example:80", 503, "dns", "does not exist"),
        ("broken.example:80", 503, "dns", "SERVFAIL"),
        ("refused.example:80", 503, "dns", "REFUSED"),
        ("empty.example:80", 503, "dns", "has no IPv4 address; has no IPv6 address"),
        ("good.example:9", 503, "connect", "refused"),
    ]
    count = 0
    for host, status, word, detail in asked:
        for connect in (True, False):
            found = client.tunnel(host)[0] if connect else client.status(f"http://{host}/")
            assert found == status, (host, connect)
            count += 1
            if not connect or not word:
                continue
            entry = last(proxy, count)
            assert (entry["decision"], entry["line"], entry["error"]) == ("allow", 1, word), entry
            assert detail in entry["detail"], entry
    with client.connect() as opened:
        opened.sendall(b"GET http://good.example/wait/9 HTTP/1.1\r\nHost: good.example\r\n\r\n")
        time.sleep(0.5)
    assert last(proxy, count + 1)["error"] == "client"
    assert client.get("http://good.example/", "X-Long: " + "a" * 70_000 + "\r\n")[0] == 431
    assert last(proxy, count + 2)["error"] == "too_large"
    # Clients see the same page for both methods.
    figures = Endpoint(client.pod, proxy.address).figures()
    errors = {name.split('"')[1]: value for name, value in figures.items() if "request_errors_total" in name}
    assert errors == {
        "dns": 8,
        "connect": 2,
        "client": 1,
        "too_large": 1,
        **dict.fromkeys(("timeout", "server", "tls", "other"), 0),
    }


def test_a_denied_name_is_denied_whether_it_resolves_or_not(lab: Lab, proxy: Proxy, client: Client) -> None:
    proxy.start("!missing.example\n*.example")
    assert client.status("http://missing.example/") == 403
    assert client.status("http://other.invalid/") == 403
    assert client.status("http://gone.example/") == 503, "the control"
    assert {query.name for query in lab.dns.queries} == {"gone.example"}


def test_silent_tunnels_are_probed_and_end_after_the_limit(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Keepalive packets after 60 s on both sides: clouds forget a silent connection after 350 s."""
    lab.echo(GOOD, tcp=[80])
    proxy.start("*", {"EGRESS_HTTP_PROXY_IDLE_TIMEOUT": "3"})
    status, tunnel = client.tunnel(f"{GOOD}:80")
    assert status == 200
    timers = [line.split() for line in proxy.pod.run(["ss", "-Htno", "state", "established"]).stdout.splitlines()]
    probed = {words[3]: words[4] for words in timers if len(words) > 4 and words[4].startswith("timer:(keepalive,5")}
    assert f"{GOOD}:80" in probed, timers
    assert len(probed) == 2, "and the client's"
    with tunnel:
        tunnel.settimeout(15)
        started = time.monotonic()
        for _ in range(4):
            time.sleep(1)
            tunnel.sendall(b"still here\n")
            assert tunnel.recv(100), "traffic keeps it open"
        assert tunnel.recv(100) == b""
        assert 6.5 < time.monotonic() - started < 10.5
    # The log tells it from a tunnel that lasted as long, and that an end closed.
    _, closed = client.tunnel(f"{GOOD}:80")
    for _ in range(5):
        time.sleep(1)
        closed.sendall(b"still here\n")
        assert closed.recv(100)
    closed.close()
    silent, ordinary = proxy.wait_for_log(2)
    assert (silent["decision"], silent.get("error")) == ("allow", "timeout")
    assert silent["detail"] == "nothing came for EGRESS_HTTP_PROXY_IDLE_TIMEOUT"
    assert ordinary["duration_ms"] > 4000
    assert "error" not in ordinary


@contextmanager
def websocket_server(lab: Lab, port: int, answer: str = "websocket") -> Iterator[list[bytes]]:
    """Switch protocols, greet, and echo; yields what clients asked with."""
    listener = lab.services.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((GOOD, port))
    listener.listen()
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            asked.append(connection.recv(10_000))
            head = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {answer}\r\nConnection: Upgrade\r\n\r\nhi"
            connection.sendall(head.encode())
            while data := connection.recv(100):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


#: What clients write in Upgrade and Connection (RFC 9110, 7.8: names of protocols have any case, lists have an order).
FORMS = [
    ("WebSocket", "Upgrade"),
    ("Websocket", "Upgrade"),
    ("WEBSOCKET", "UPGRADE"),
    ("websocket", "keep-alive, upgrade"),
    ("websocket, h2c", "Upgrade, HTTP2-Settings"),
    ("h2c, websocket", "Upgrade"),
]


def test_websocket_by_upgrade(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.echo(GOOD, tcp=[9])
    lab.dns.set("good.example", A=[GOOD])
    lab.dns.set("denied.example", A=[GOOD])
    proxy.start("!denied.example\n*")

    def upgrade(host: str, protocol: str = "websocket", connection: str = "Upgrade") -> tuple[int, bytes]:
        with client.connect() as opened:
            opened.sendall(
                f"GET http://{host}:81/chat HTTP/1.1\r\nHost: {host}:81\r\nUpgrade: {protocol}\r\n"
                f"Connection: {connection}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            reply = b""
            while b"\r\n\r\nhi" not in reply and (part := opened.recv(4096)):
                reply += part
                if b" 403 " in reply[:20]:
                    return 403, b""
            opened.sendall(b"frames")
            return int(reply.split()[1]), opened.recv(100)

    with websocket_server(lab, 81) as asked:
        assert upgrade("good.example") == (101, b"frames")
        assert upgrade("denied.example")[0] == 403
        assert len(asked) == 1
        assert b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" in asked[0]
        for form in FORMS:
            assert upgrade("good.example", *form) == (101, b"frames"), form
            assert b"upgrade: websocket\r\n" in asked[-1].lower()
    with websocket_server(lab, 81, "WebSocket"):
        assert upgrade("good.example") == (101, b"frames")
    entries = proxy.wait_for_log(3 + len(FORMS))
    assert {(entry["status"], entry["decision"]) for entry in entries} == {(101, "allow"), (403, "deny")}
    json.dumps(entries)
