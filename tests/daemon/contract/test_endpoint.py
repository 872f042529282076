"""The endpoint on loopback: probes are answered whatever other clients and the pages do."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from egress_router.daemon import endpoint
from egress_router.daemon.endpoint import MOST_OF_ONE_ADDRESS, MOST_QUERIES, Answer, Endpoint
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.errors import PlatformError, TryAgainError


@dataclass
class Source:
    heartbeats: Heartbeats = field(default_factory=Heartbeats)

    def reasons(self, now: float) -> list[str]:
        return []


def ask(port: int, path: str = "/healthz", method: str = "GET", source: str = "127.0.0.1") -> tuple[str, str]:
    """Return the status line and the body."""
    with socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0)) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        data = b""
        while chunk := client.recv(65536):
            data += chunk
    head, _, body = data.decode().partition("\r\n\r\n")
    return head.splitlines()[0].removeprefix("HTTP/1.1 "), body


def text(body: str) -> Answer:
    return 200, "text/plain", body.encode()


class Pages:
    """``slow`` waits until it is let go; ``made`` counts."""

    def __init__(self) -> None:
        self.made = 0
        self.go = threading.Event()

    def slow(self) -> Answer:
        self.made += 1
        assert self.go.wait(20)
        return text(f"slow {self.made}")

    def costly(self) -> Answer:
        self.made += 1
        time.sleep(0.15)
        return text(f"costly {self.made}")

    def broken(self) -> Answer:
        raise RecursionError("too deep")

    def refused(self) -> Answer:
        raise TryAgainError("the kernel is busy")

    def large(self) -> Answer:
        return text("x" * 8_000_000)


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def port(pages: Pages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[int]:
    monkeypatch.setattr(LOGGER, "handlers", [caplog.handler])
    monkeypatch.setattr(LOGGER, "propagate", False)
    caplog.set_level(logging.DEBUG)
    named: dict[str, Callable[[], Answer]] = {
        f"/{name}": getattr(pages, name) for name in ("slow", "costly", "broken", "refused", "large")
    }
    server = Endpoint(0, Source(), named, address="127.0.0.1")
    server.start(Threads(Loop()))
    yield server.port
    pages.go.set()


def test_pages(port: int) -> None:
    assert ask(port) == ("200 OK", "ok\n")
    assert ask(port, "/readyz") == ("200 OK", "ready\n")
    assert ask(port, "/readyz", "HEAD") == ("200 OK", "")
    assert ask(port, "/healthz?verbose")[1].startswith("ok\n")
    status, body = ask(port, "/nothing")
    assert (status, body) == ("404 Not Found", "there are /healthz /readyz /slow /costly /broken /refused /large\n")
    assert ask(port, "/healthz", "POST")[0] == "405 Method Not Allowed"
    assert ask(port, "x" * 9000)[0] == "431 Request Header Fields Too Large"
    assert ask(port, "nothing")[0] == "400 Bad Request"
    assert len(ask(port, "/large")[1]) == 8_000_000


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1:9909", True),
        ("[2001:db8::1]:9909", True),
        ("[::1]", True),
        ("LOCALHOST:9909", True),
        ("router.localhost", True),
        ("shop", True),
        ("shop.egress-routers.svc:9909", True),
        ("shop.egress-routers.svc.cluster.local.", True),
        ("pages.example.com:443", True),
        (f"{socket.gethostname()}:9909", True),
        ("rebound.example.net", False),
        ("rebound.example.net:9909", False),
        ("REBOUND.example.net.:9909", False),
        ("127.0.0.1.rebound.example.net", False),
        ("pages.example.com.rebound.example.net", False),
        ("svc.example.net", False),
        ("10.1", False),
    ],
)
def test_pages_are_served_by_our_names_alone(host: str, served: bool) -> None:
    """A stranger's page can give its own name our address, and is told nothing; probes and Prometheus always are."""
    pages = {"/status": lambda: text("secret"), "/metrics": lambda: text("figures")}
    asked = {"/": lambda _query: text("secret")}
    server = Endpoint(0, Source(), pages, address="127.0.0.1", asked=asked, hosts=["pages.example.com"])
    server.start(Threads(Loop()))

    def told(path: str, *hosts: str) -> str:
        lines = "".join(f"{name}: {value}\r\n" for name, value in zip(("Host", "hOST"), hosts, strict=False))
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
            data = b""
            while chunk := client.recv(65536):
                data += chunk
        return data.decode()

    for path in ("/", "/?q=x", "/status"):
        assert ("secret" in told(path, host)) is served, path
        assert ("secret" in told(path, "127.0.0.1", host)) is served, f"{path} with two hosts"
        assert ("HTTP/1.1 421 Misdirected Request" in told(path, host)) is not served
        assert "secret" in told(path), "no browser asks without a host"
    for path, words in (("/healthz", "ok"), ("/readyz?verbose", "ready"), ("/metrics", "figures")):
        assert words in told(path, host), path


def test_a_page_that_fails_is_answered_and_logged(port: int, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(port, "/broken") == ("500 Internal Server Error", "the page could not be made; see the log\n")
    assert ask(port, "/refused") == ("500 Internal Server Error", "the kernel is busy\n")
    broken, refused = (record for record in caplog.records if "cannot be shown" in record.getMessage())
    assert broken.exc_info is not None
    assert broken.exc_info[0] is RecursionError
    assert refused.getMessage() == "/refused cannot be shown: the kernel is busy"


def test_a_page_is_made_once_for_all_that_ask(port: int, pages: Pages) -> None:
    answers: list[tuple[str, str]] = []
    askers = [threading.Thread(target=lambda: answers.append(ask(port, "/slow"))) for _ in range(8)]
    for asker in askers:
        asker.start()
    time.sleep(0.2)
    assert ask(port) == ("200 OK", "ok\n"), "meanwhile"
    pages.go.set()
    for asker in askers:
        asker.join(10)
    assert answers == [("200 OK", "slow 1")] * 8


def test_a_costly_page_is_kept_for_a_second(port: int) -> None:
    assert ask(port, "/costly")[1] == "costly 1"
    assert ask(port, "/costly")[1] == "costly 1"
    time.sleep(endpoint.FRESH_SECONDS + 0.1)
    assert ask(port, "/costly")[1] == "costly 2"


def test_probes_are_answered_beside_clients_that_send_nothing(port: int) -> None:
    """More of them than there may be connections, from many addresses, for longer than a request may take."""
    with ExitStack() as stack:
        for number in range(4 * endpoint.MOST_CONNECTIONS):
            source = f"127.0.1.{number + 1 if number < 250 else 1}"
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5, source_address=(source, 0)))
            client.sendall(b"GET /heal")
            if number % 16 == 0:
                assert ask(port) == ("200 OK", "ok\n")
        for _ in range(20):
            assert ask(port) == ("200 OK", "ok\n")


def test_one_address_cannot_take_all_connections(port: int) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5, source_address=("127.0.2.2", 0)))
        greedy = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5, source_address=("127.0.2.1", 0)))
            for _ in range(3 * MOST_OF_ONE_ADDRESS)
        ]
        assert greedy[0].recv(1) == b"", "the oldest of them went for the next"
        other.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_the_oldest_unfinished_connection_goes_first(port: int) -> None:
    """The one that said nothing, or half of a request, for the longest; the others may still finish theirs."""
    with ExitStack() as stack:

        def connected(number: int) -> socket.socket:
            source = (f"127.0.3.{number // (MOST_OF_ONE_ADDRESS // 2) + 1}", 0)
            opened = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5, source_address=source))
            opened.sendall(b"GET /healthz HTTP/1.1\r\n")
            opened.settimeout(5)
            return opened

        more = 3
        opened = [connected(number) for number in range(endpoint.MOST_CONNECTIONS + more)]
        assert ask(port) == ("200 OK", "ok\n"), "it goes for a probe, too"
        for one in opened[: more + 1]:
            # Reset, if what it said was not read yet.
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
        for one in opened[more + 1 :]:
            one.sendall(b"\r\n")
            assert one.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_request_that_comes_by_bytes_has_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port), 0.1) as client:
        began, ended = time.monotonic(), False
        while not ended and time.monotonic() - began < 8:
            try:
                client.sendall(b"G")
                ended = not client.recv(100)
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
    assert ended, "a byte now and then does not keep it"


def test_an_answer_that_is_not_taken_has_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ANSWER_SECONDS", 0.5)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        time.sleep(1.5)
        got = 0
        try:
            while data := client.recv(65536):
                got += len(data)
        except ConnectionResetError:
            got += 0
    assert got < 8_000_000


def test_a_port_that_is_taken_names_its_variable(port: int) -> None:
    with pytest.raises(PlatformError, match=f"--health-port={port} cannot be listened on: Address already in use"):
        Endpoint(port, Source(), {}, "--health-port", "127.0.0.1")


@pytest.fixture
def server(pages: Pages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Endpoint]:
    """A page that answers what stands behind the question mark, as HTML; ``slow`` waits, ``bad`` fails."""
    monkeypatch.setattr(LOGGER, "handlers", [caplog.handler])
    monkeypatch.setattr(LOGGER, "propagate", False)

    def answer(query: str) -> Answer:
        pages.made += 1
        if query.startswith("bad"):
            raise TryAgainError("the kernel is busy")
        if query.startswith("slow"):
            assert pages.go.wait(20)
        return 200, "text/html; charset=utf-8", (f"<p>{query}" + "x" * 4000).encode()

    served = Endpoint(0, Source(), {}, address="127.0.0.1", asked={"/": answer})
    served.start(Threads(Loop()))
    yield served
    pages.go.set()


@pytest.fixture
def questions(server: Endpoint) -> int:
    return server.port


def whole(port: int, path: str, *headers: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall("\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode())
        data = b""
        while chunk := client.recv(65536):
            data += chunk
    return data


def test_a_question_is_answered_once_a_second(questions: int, pages: Pages) -> None:
    for query in ("", "q=shop", "q=bank", "q=shop", ""):
        head, _, body = whole(questions, f"/?{query}").partition(b"\r\n\r\n")
        assert body.startswith(f"<p>{query}x".encode())
        assert b"\r\nContent-Security-Policy: default-src 'none'" in head
        assert b"Content-Encoding" not in head
    assert pages.made <= 5
    assert ask(questions, "/nothing")[1].startswith("there are /healthz / /readyz")
    assert b"Content-Security-Policy" not in whole(questions, "/healthz")


def test_answers_to_questions_are_not_kept_for_long(server: Endpoint) -> None:
    for number in range(MOST_QUERIES):
        assert ask(server.port, f"/?q={number}")[0] == "200 OK"
    deadline = time.monotonic() + 5
    while server._queries and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not server._queries


def test_a_question_cannot_write_to_a_terminal(questions: int, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(questions, "/?bad\x1b]0;mine\x07")[0].startswith("500")
    (said,) = [record.getMessage() for record in caplog.records if "cannot be shown" in record.getMessage()]
    assert said == "/?bad\\x1b]0;mine\\x07 cannot be shown: the kernel is busy"


def test_a_question_that_is_too_long_is_none(questions: int, pages: Pages) -> None:
    """Cut short it would be another one."""
    assert whole(questions, f"/?q={'x' * 600}&redact=1").startswith(b"HTTP/1.1 431 ")
    assert not pages.made


def test_html_is_compressed_for_those_who_take_it(questions: int) -> None:
    head, _, body = whole(questions, "/", "Accept-Encoding: br, GZIP;q=0.5").partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip" in head
    assert len(body) < 200
    assert gzip.decompress(body).startswith(b"<p>x")
    assert b"Content-Encoding" not in whole(questions, "/", "Accept-Encoding: gzip;q=0").partition(b"\r\n\r\n")[0]


def test_questions_do_not_pile_up(questions: int, pages: Pages) -> None:
    askers = [threading.Thread(target=ask, args=(questions, f"/?slow{number}"), daemon=True) for number in range(2)]
    for asker in askers:
        asker.start()
    deadline = time.monotonic() + 5
    while pages.made < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ask(questions, "/?another")[0].startswith("503"), "two are being made"
    assert ask(questions) == ("200 OK", "ok\n")
    pages.go.set()
    for asker in askers:
        asker.join(5)
    assert ask(questions, "/?another")[0] == "200 OK"


def test_a_request_that_fails_unforeseen_ends_its_connection_alone(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Answer:
        raise RecursionError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(endpoint, "_healthz", fail)
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert client.recv(100) == b""
    assert ask(port) == ("200 OK", "ok\n")
    assert any(record.exc_info and "a request for health" in record.getMessage() for record in caplog.records)
