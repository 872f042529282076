"""A parent proxy: what is allowed goes on to it, with its password, and nothing goes anywhere else."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote_from_bytes

import pytest

from egress_router.http_proxy.parent import MOST_BYTES
from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy

pytestmark = pytest.mark.root

PARENT = "203.0.113.31"


@pytest.fixture
def shape() -> str:
    """How packets leave is another test's question."""
    return "bridge"


@contextmanager
def parent_proxy(lab: Lab) -> Iterator[list[bytes]]:
    """A proxy that answers everything itself; yields the heads of the requests that came."""
    lab.echo(PARENT, tcp=[9])
    listener = lab.services.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((PARENT, 3128))
    listener.listen()
    asked: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (part := connection.recv(4096)):
            head += part
        if not head:
            # Squid has a look whether it is there.
            connection.close()
            return
        asked.append(head)
        if head.startswith(b"CONNECT"):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while data := connection.recv(100):
                connection.sendall(data)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nparent")
        connection.close()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    "password",
    [b"*", b"NEGOTIATE", bytes(range(0x20, 0x7F)), bytes(range(0xA0, 0x100)), b"x" * 128, b"y" * (MOST_BYTES - 9)],
    ids=["star", "word", "ascii", "latin-1", "128", "longest"],
)
def test_odd_passwords(lab: Lab, proxy: Proxy, client: Client, password: bytes) -> None:
    """Squid's own option takes 128 bytes, and some words for something else than a user."""
    user = password[:9].replace(b":", b"")
    written = ":".join(quote_from_bytes(one, safe="") for one in (user, password))
    with parent_proxy(lab) as asked:
        proxy.start("*", {"EGRESS_HTTP_PROXY_PARENT": f"http://{written}@{PARENT}:3128"})
        assert client.get("http://a.example/", "Proxy-Authorization: Basic b3duOm93bg==\r\n")[0] == 200
        assert client.tunnel("a.example:443")[0] == 200
        sent = b"Proxy-Authorization: Basic " + base64.b64encode(user + b":" + password) + b"\r\n"
        assert [(head.count(sent), head.count(b"Proxy-Authorization")) for head in asked] == [(1, 1), (1, 1)]
    assert base64.b64encode(password) not in proxy.err.read_bytes()


def test_a_trace_does_not_bring_the_password_to_a_client(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Whoever answers a TRACE sends back what it got (RFC 9110, 9.3.8)."""
    with parent_proxy(lab) as asked:
        proxy.start("*", {"EGRESS_HTTP_PROXY_PARENT": f"http://user:password@{PARENT}:3128"})
        head = b"Host: a.example\r\nMax-Forwards: 1\r\nConnection: close\r\n\r\n"
        assert client.raw(b"TRACE http://a.example/ HTTP/1.1\r\n" + head).startswith(b"HTTP/1.1 200")
        assert client.raw(b"GET http://a.example/ HTTP/1.1\r\n" + head).startswith(b"HTTP/1.1 200")
    assert [one.split()[0] for one in asked] == [b"TRACE", b"GET"]
    assert [b"Proxy-Authorization" in one for one in asked] == [False, True]


def test_everything_goes_on_to_the_parent(lab: Lab, proxy: Proxy, client: Client) -> None:
    secret = proxy.work / "secret"
    secret.write_text(f"http://us%40er:pass%20%25:w@{PARENT}:3128\n")
    secret.chmod(0o644)
    lab.dns.set("nowhere.example", drop=True)
    with parent_proxy(lab) as asked:
        proxy.start("!denied.example\n!10.0.0.0/8\n*", {"EGRESS_HTTP_PROXY_PARENT_FILE": str(secret)})
        with lab.capture() as capture:
            # No name server here knows these names, and none answers; the policy judges them all the same.
            started = time.monotonic()
            assert client.get("http://nowhere.example/x")[1].endswith(b"parent")
            status, tunnel = client.tunnel("nowhere.example:443")
            assert status == 200
            with tunnel:
                tunnel.sendall(b"through")
                assert tunnel.recv(100) == b"through"
            assert time.monotonic() - started < 5
            assert client.status("http://denied.example/") == 403
            assert client.status("http://10.1.2.3/") == 403
            assert client.status("http://127.0.0.1/") == 403
            assert client.tunnel("denied.example:443")[0] == 403
        reached = {str(packet.dst) for packet in capture.outgoing() if packet.proto == "tcp"}
        assert reached == {PARENT}
        heads = [head.split(b"\r\n")[0] for head in asked]
        assert heads == [b"GET http://nowhere.example/x HTTP/1.1", b"CONNECT nowhere.example:443 HTTP/1.1"]
        password = base64.b64encode(b"us@er:pass %:w")
        assert all(b"Proxy-Authorization: Basic " + password in head for head in asked), asked
        assert len(asked) == 2, "nothing else reached it"
    assert "denied.example" not in {query.name for query in lab.dns.queries}
    entries = proxy.wait_for_log(6)
    assert {entry["parent"] for entry in entries if entry["decision"] == "allow"} == {PARENT}
    assert not [entry for entry in entries if "server" in entry]
    assert "pass" not in proxy.err.read_text()
    # It is gone: an answer, and a reason.
    assert client.status("http://nowhere.example/") == 503
    assert proxy.wait_for_log(7)[-1]["error"] == "connect"
