"""`/healthz`, `/readyz` and further pages over HTTP, from one thread that no client and no page can hold up.

The thread's own loop accepts, reads and writes; nothing in it waits. `/healthz` is answered there, from what loops and
threads have noted. Every other page is made by a thread of its own, once at a time for all that ask, and its answer is
kept for as long as FRESH_SHARE times what it took, at most FRESH_SECONDS: so a page that takes up to a tenth of a
second takes a tenth of a processor at most, a slower one is made once a second, and one that costs nothing is never
stale. Of pages that take a question MOST_AT_WORK are made at once.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol

from egress_router import __version__
from egress_router.config.values import Family
from egress_router.daemon.heartbeat import STUCK_SECONDS, Heartbeats
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.daemon.page.assets import Answer, html_headers
from egress_router.daemon.page.host_names import hosts_of, is_ours
from egress_router.daemon.threads import Threads
from egress_router.errors import EgressRouterError, PlatformError, printable
from egress_router.net.families import has_sockets
from egress_router.records import dataclass, field

__all__ = ["STUCK_SECONDS", "Answer", "Endpoint", "HealthSource", "bounded", "json_page"]

#: Connections at once, and of one address; the oldest one goes for the next.
MOST_CONNECTIONS, MOST_OF_ONE_ADDRESS = 64, 16
#: For the whole request to come, and for the whole answer to be taken.
REQUEST_SECONDS, ANSWER_SECONDS = 5.0, 10.0
#: For a page to be made.
PAGE_SECONDS = 60.0
#: More bytes than this are no request of a probe.
MOST_REQUEST_BYTES = 8192
FRESH_SECONDS, FRESH_SHARE = 1.0, 10
#: Sentences of a page; the rest is counted.
MOST_SENTENCES = 100
#: Pages by query that are kept, and the longest query.
MOST_QUERIES, MOST_QUERY_BYTES = 16, 512
#: Of which so many are made at once; who asks for one more hears to come again.
MOST_AT_WORK = 2
#: HTML of this size and more goes compressed to those who say that they take it (RFC 9110 12.5.3).
_COMPRESSED_FROM = 2048
#: Answered whatever name they are asked for by: kubelets, load balancers and Prometheus have their own.
_BY_ANY_NAME = ("/healthz", "/readyz", "/metrics")
#: How often deadlines are looked at.
_SWEEP_SECONDS = 0.25

_TEXT = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class HealthSource(Protocol):
    """The process that is asked about. Read by several threads at once."""

    @property
    def heartbeats(self) -> Heartbeats:
        """When its loops and threads last showed that they turn."""

    def reasons(self, now: float) -> list[str]:
        """Return why it is not ready, a sentence each; nothing when it is. ``now`` is time.monotonic()."""


def bounded(sentences: list[str]) -> list[str]:
    """Return the first MOST_SENTENCES of them and how many more there are."""
    more = len(sentences) - MOST_SENTENCES
    return sentences if more <= 0 else [*sentences[:MOST_SENTENCES], f"and {more} more"]


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    address: str
    until: float
    request: bytes = b""
    head: bool = False
    #: Whether the client takes gzip.
    gzip: bool = False
    #: What is still to be sent, once the answer is known.
    rest: memoryview | None = None
    page: _Page | None = None


@dataclass(slots=True, eq=False)
class _Page:
    path: str
    make: Callable[[], Answer]
    running: bool = False
    waiting: list[_Connection] = field(default_factory=list)
    answer: Answer | None = None
    #: The body of HTML once more, compressed.
    packed: bytes | None = None
    fresh_until: float = 0.0


class Endpoint:
    """Listens on ``port`` of ``address``, or of all addresses; then the rules keep the egress side away. Raises
    PlatformError, which names ``variable`` as the place to choose another port.

    `/healthz` and `/readyz` come from ``source``, and with ``?verbose`` they show the last heartbeat of each loop and
    thread; ``pages`` are further ones, by path. ``warnings`` are sentences that `/readyz` shows also when all is well
    enough. ``asked`` are pages by path that take what stands behind the question mark. ``hosts`` are names by which
    pages besides health and figures are served, besides those of page.host_names.
    """

    def __init__(
        self,
        port: int,
        source: HealthSource,
        pages: Mapping[str, Callable[[], Answer]],
        variable: str = "EGRESS_HEALTH_PORT",
        address: str = "",
        warnings: Callable[[], list[str]] = list,
        asked: Mapping[str, Callable[[str], Answer]] | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        self._hosts = hosts
        self._source = source
        made: dict[str, Callable[[], Answer]] = {
            "/readyz": lambda: _readyz(source, warnings),
            "/readyz?verbose": lambda: _readyz(source, warnings, verbose=True),
            **pages,
        }
        self._pages = {path: _Page(path, make) for path, make in made.items()}
        self._asked = dict(asked or {})
        self._queries: dict[str, _Page] = {}
        self._connections: list[_Connection] = []
        self._threads: Threads | None = None
        self._loop: Loop | None = None
        both = not address and has_sockets(Family.IPV6)
        family = socket.AF_INET6 if both or ":" in address else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if both:
                self._listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self._listener.bind((address or ("::" if both else "0.0.0.0"), port))  # noqa: S104
            self._listener.listen(128)
        except OSError as error:
            self._listener.close()
            raise PlatformError(
                f"{variable}={port} cannot be listened on: {error.strerror}; choose another port, or off"
            ) from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    def start(self, threads: Threads) -> None:
        """Serve from a thread of ``threads``."""
        self._threads = threads
        threads.start("endpoint", self._serve)

    def _serve(self, beat: Callable[[], None]) -> None:
        # Anew after a failure: what was half done is dropped.
        for connection in self._connections:
            connection.socket.close()
        self._connections.clear()
        self._queries.clear()
        for page in self._pages.values():
            page.waiting.clear()
            page.running = False
        self._loop = loop = Loop(name="endpoint loop")
        self._listen()
        loop.every(_SWEEP_SECONDS, self._sweep)
        try:
            while True:
                beat()
                loop.turn()
        finally:
            loop.close()

    # Connections

    def _listen(self) -> None:
        assert self._loop is not None  # noqa: S101
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._loop is not None  # noqa: S101
        for _ in range(MOST_CONNECTIONS):
            try:
                accepted, peer = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:
                # No descriptor or no memory is left. The listener stays readable, so look again a moment later.
                if self._connections:
                    self._close(self._connections[0])
                self._loop.remove(self._listener.fileno())
                self._loop.call_later(_SWEEP_SECONDS, self._listen)
                return
            accepted.setblocking(False)
            address = str(peer[0])
            same = [one for one in self._connections if one.address == address]
            if len(same) >= MOST_OF_ONE_ADDRESS:
                self._close(same[0])
            elif len(self._connections) >= MOST_CONNECTIONS:
                self._close(self._connections[0])
            connection = _Connection(accepted, address, self._loop.now() + REQUEST_SECONDS)
            self._connections.append(connection)
            self._loop.add_reader(accepted.fileno(), partial(self._guarded, self._receive, connection))

    def _guarded(self, action: Callable[[_Connection], None], connection: _Connection) -> None:
        """Do something for a connection; what nobody foresaw ends that one alone, and is logged."""
        try:
            action(connection)
        except Exception:  # noqa: BLE001 - whatever a client sends, the others are answered
            LOGGER.exception("a request for health or figures failed")
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        assert self._loop is not None  # noqa: S101
        if connection in self._connections:
            self._connections.remove(connection)
            if connection.page is not None:
                connection.page.waiting.remove(connection)
            self._loop.remove(connection.socket.fileno())
            connection.socket.close()

    def _sweep(self) -> None:
        assert self._loop is not None  # noqa: S101
        now = self._loop.now()
        for connection in [one for one in self._connections if one.until <= now]:
            # What the client does not take is thrown away, see SO_LINGER in socket(7).
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close(connection)
        # Nobody is answered with them any more, and pages of long lists are megabytes.
        old = [key for key, page in self._queries.items() if not page.running and page.fresh_until <= now]
        for key in old:
            del self._queries[key]

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.request += data
        if len(connection.request) > MOST_REQUEST_BYTES:
            self._answer(connection, _text(431, f"more than {MOST_REQUEST_BYTES} bytes"))
        elif b"\r\n\r\n" in connection.request or b"\n\n" in connection.request:
            self._route(connection)

    def _route(self, connection: _Connection) -> None:
        assert self._loop is not None  # noqa: S101
        words = connection.request.split(b"\n", 1)[0].decode("latin-1").split()
        if len(words) not in (2, 3) or not words[1].startswith("/"):
            self._answer(connection, _text(400, "no request line"))
            return
        connection.head = words[0] == "HEAD"
        path, _, query = words[1].partition("?")
        verbose = "verbose" in query.split("&")
        foreign = [host for host in hosts_of(connection.request) if not is_ours(host, self._hosts)]
        if foreign and path not in _BY_ANY_NAME:
            text = (
                f"not served by the name {printable(foreign[0])}: ask by address, or allow the name (EGRESS_PAGE_HOSTS)"
            )
            self._answer(connection, _text(421, text))
            return
        connection.gzip = _takes_gzip(connection.request)
        page = self._pages.get(f"{path}?verbose" if verbose and path == "/readyz" else path)
        if path in self._asked:
            if len(query) > MOST_QUERY_BYTES:
                self._answer(connection, _text(431, f"a question of more than {MOST_QUERY_BYTES} bytes"))
                return
            page = self._page_of(path, query)
        if words[0] not in ("GET", "HEAD"):
            self._answer(connection, _text(405, "GET or HEAD"))
        elif path == "/healthz":
            self._answer(connection, _healthz(self._source, verbose=verbose))
        elif page is None:
            paths = [path for path in (*self._asked, *self._pages) if "?" not in path]
            self._answer(connection, _text(404, f"there are {' '.join(['/healthz', *paths])}"))
        elif page.answer is not None and self._loop.now() < page.fresh_until:
            self._answer(connection, page.answer, page.packed)
        elif path in self._asked and not page.running and self._at_work() >= MOST_AT_WORK:
            self._answer(connection, _text(503, "busy with other questions; please ask again"))
        else:
            connection.until = self._loop.now() + PAGE_SECONDS
            connection.page = page
            page.waiting.append(connection)
            # A client that goes away or sends more is of no interest until the page is there.
            self._loop.remove(connection.socket.fileno())
            self._make(page)

    def _at_work(self) -> int:
        return sum(page.running for page in self._queries.values())

    def _page_of(self, path: str, query: str) -> _Page:
        """Return the page for a query, made anew where it is not one of the last few."""
        key = f"{path}?{query}"
        # Its name is in the log and in /healthz, which terminals show.
        page = self._queries.pop(key, None) or _Page(printable(key), lambda: self._asked[path](query))
        self._queries[key] = page
        idle = [old for old, one in self._queries.items() if old != key and not one.running]
        for old in idle[: max(len(self._queries) - MOST_QUERIES, 0)]:
            del self._queries[old]
        return page

    def _answer(self, connection: _Connection, answer: Answer, packed: bytes | None = None) -> None:
        assert self._loop is not None  # noqa: S101
        status, kind, body = answer
        more = ""
        if kind.startswith("text/html"):
            more = "".join(f"{name}: {value}\r\n" for name, value in html_headers().items())
        if packed is not None and connection.gzip:
            body, more = packed, f"{more}Content-Encoding: gzip\r\n"
        head = (
            f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n"
            f"Server: egress-router/{__version__}\r\n"
            f"Content-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"{more}"
            "Connection: close\r\n\r\n"
        )
        connection.until = self._loop.now() + ANSWER_SECONDS
        connection.page = None
        connection.rest = memoryview(head.encode("latin-1") + (b"" if connection.head else body))
        self._loop.remove(connection.socket.fileno())
        self._loop.add_writer(connection.socket.fileno(), partial(self._guarded, self._send, connection))
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        assert connection.rest is not None  # noqa: S101
        try:
            sent = connection.socket.send(connection.rest)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        connection.rest = connection.rest[sent:]
        if not connection.rest:
            self._close(connection)

    # Pages

    def _make(self, page: _Page) -> None:
        if page.running:
            return
        page.running = True
        assert self._threads is not None  # noqa: S101
        self._threads.task(f"page {page.path}", lambda: self._made(page))

    def _made(self, page: _Page) -> None:
        """Make a page, in its thread."""
        started = time.monotonic()
        answer = _text(500, "the page could not be made; see the log")
        try:
            answer = page.make()
        except EgressRouterError as error:
            LOGGER.error("%s cannot be shown: %s", page.path, error)
            answer = _text(500, str(error))
        except Exception:  # noqa: BLE001 - the client is told, and the log has the traceback
            LOGGER.exception("%s cannot be shown", page.path)
        packed = _packed(answer)
        took = time.monotonic() - started
        loop = self._loop
        if loop is not None:
            # One that failed is made again for the next who asks.
            fresh = min(FRESH_SECONDS, FRESH_SHARE * took) if answer[0] != 500 else 0.0
            loop.post(lambda: self._finish(page, answer, packed, fresh))

    def _finish(self, page: _Page, answer: Answer, packed: bytes | None, fresh: float) -> None:
        assert self._loop is not None  # noqa: S101
        page.running = False
        page.answer, page.packed, page.fresh_until = answer, packed, self._loop.now() + fresh
        waiting, page.waiting = page.waiting, []
        for connection in waiting:
            self._answer(connection, answer, packed)


def _takes_gzip(request: bytes) -> bool:
    """Return whether Accept-Encoding names gzip, and not with a weight of nothing (RFC 9110 12.5.3)."""
    for line in request.lower().split(b"\n"):
        name, _, value = line.partition(b":")
        if name.strip() == b"accept-encoding":
            words = (word.replace(b" ", b"").strip().partition(b";q=") for word in value.split(b","))
            return any(coding == b"gzip" and (not weight or weight.strip(b"0.") != b"") for coding, _, weight in words)
    return False


def _packed(answer: Answer) -> bytes | None:
    _, kind, body = answer
    if not kind.startswith("text/html") or len(body) < _COMPRESSED_FROM:
        return None
    import gzip

    return gzip.compress(body, 5)


def _text(status: int, text: str) -> Answer:
    return status, _TEXT, f"{text}\n".encode(errors="backslashreplace")


def _healthz(source: HealthSource, *, verbose: bool = False) -> Answer:
    stuck = bounded(source.heartbeats.stuck())
    lines = (stuck or ["ok"]) + (source.heartbeats.lines() if verbose else [])
    return _text(503 if stuck else 200, "\n".join(lines))


def _readyz(source: HealthSource, warnings: Callable[[], list[str]], *, verbose: bool = False) -> Answer:
    reasons = [*source.heartbeats.stuck(), *source.reasons(time.monotonic())]
    lines = bounded(reasons or ["ready"]) + bounded(warnings())
    lines += source.heartbeats.lines() if verbose else []
    return _text(503 if reasons else 200, "\n".join(lines))


def json_page(value: Callable[[], Any]) -> Callable[[], Answer]:
    """Return a page that shows ``value()`` as JSON."""
    return lambda: (200, "application/json", json.dumps(value()).encode() + b"\n")
