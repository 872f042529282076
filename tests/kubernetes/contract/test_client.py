"""Requests: through a proxy, over a connection that the server has closed, and answers that are none."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from egress_router.kubernetes.client import ApiError, ApiUnavailable, Client
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.kubernetes.events import BURST, Events
from lab.kubernetes import credentials
from tests.support.fake_api import PATH, fake_api


@contextmanager
def proxy(target: tuple[str, int]) -> Iterator[tuple[int, list[str]]]:
    """Take CONNECT requests and lead them to the target."""
    listening = socket.create_server(("127.0.0.1", 0))
    asked: list[str] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def serve() -> None:
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += peer.recv(1)
            asked.append(head.split(b"\r\n")[0].decode())
            behind = socket.create_connection(target)
            peer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for one, other in ((peer, behind), (behind, peer)):
                threading.Thread(target=pump, args=(one, other), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1], asked
    finally:
        listening.close()


def test_through_a_proxy() -> None:
    with fake_api() as api:
        api.set("t", 1)
        port = urlsplit(api.configuration.server).port or 0
        with proxy(("127.0.0.1", port)) as (proxy_port, asked):
            configuration = ApiConfiguration(
                f"http://api.invalid:{port}", token=api.token, proxy=f"http://127.0.0.1:{proxy_port}"
            )
            assert len(Client(configuration).request("GET", PATH)["items"]) == 1
            assert asked == [f"CONNECT api.invalid:{port} HTTP/1.0"] or asked == [
                f"CONNECT api.invalid:{port} HTTP/1.1"
            ]


def test_a_kept_connection_that_the_server_has_closed() -> None:
    with fake_api() as api:
        client = Client(api.configuration)
        client.request("GET", PATH)
        assert client._kept is not None
        assert client._kept.sock is not None
        kept = client._kept
        kept.sock.shutdown(socket.SHUT_RDWR)
        client.request("GET", PATH)
        assert client._kept is not kept


def test_a_token_is_read_again_when_it_is_refused() -> None:
    with fake_api() as api:
        api.faults.append("unauthorized")
        assert Client(api.configuration).request("GET", PATH)["items"] == []
        api.faults.extend(["unauthorized", "unauthorized"])
        with pytest.raises(ApiError, match="401 Unauthorized"):
            Client(api.configuration).request("GET", PATH)


def test_answers_that_are_none() -> None:
    with fake_api() as api:
        client = Client(api.configuration)
        api.faults.append("not-json")
        with pytest.raises(ApiUnavailable, match="is not a JSON object"):
            client.request("GET", PATH)
        api.faults.append("error")
        with pytest.raises(ApiError, match="500 Error: something else went wrong"):
            client.request("GET", PATH)
    with pytest.raises(ApiUnavailable, match="cannot be reached"):
        Client(api.configuration).request("GET", PATH)


def test_events_are_few() -> None:
    events = Events(Client(ApiConfiguration("http://127.0.0.1:1")), "c", "i", lambda _text: None)
    allowed = [events._allowed("uid", "Moved", 0.0) for _ in range(BURST + 5)]
    assert allowed == [True] * BURST + [False] * 5
    assert not events._allowed("uid", "Moved", 299.0)
    assert events._allowed("uid", "Moved", 300.0)
    assert not events._allowed("uid", "Moved", 301.0)
    assert events._allowed("uid", "Other", 301.0), "each reason for itself"
    assert events._allowed("another", "Moved", 301.0), "and each object"


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers every GET with an empty list."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "13")
        self.end_headers()
        self.wfile.write(b'{"items": []}')

    def log_message(self, *_: object) -> None:
        pass


def test_an_authority_as_openssl_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without key usage, as the documentation of Kubernetes has it made. Python 3.13 refuses it unless it is told
    otherwise, and earlier ones do here; what nobody trusts is refused all the same.
    """
    usual = ssl.create_default_context

    def strict(**options: Any) -> ssl.SSLContext:
        context = usual(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    ours, others = (credentials.make(tmp_path / name, [], ["127.0.0.1"]) for name in ("ours", "others"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ours.folder / "server.crt", ours.folder / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"https://127.0.0.1:{server.server_port}"
            assert Client(ApiConfiguration(url, ca_file=ours.ca)).request("GET", PATH) == {"items": []}
            with pytest.raises(ApiUnavailable, match="certificate verify failed"):
                Client(ApiConfiguration(url, ca_file=others.ca)).request("GET", PATH)
        finally:
            server.shutdown()
