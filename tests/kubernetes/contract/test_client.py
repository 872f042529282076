"""Requests: through a proxy, over a connection that the server has closed, and answers that are none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from egress_router.kubernetes.client import ApiError, ApiUnavailable, Client
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.kubernetes.events import BURST, Events
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
