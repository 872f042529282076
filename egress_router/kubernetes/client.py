"""Requests to the Kubernetes API over http.client: tokens and CAs that rotate, proxies, errors that say what to do."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from egress_router.config.files import read_regular, stamp_of
from egress_router.errors import TryAgainError, printable
from egress_router.kubernetes.configuration import ApiConfiguration

#: Seconds for connecting, and for an answer that is no watch.
TIMEOUT = 10.0
#: A connection that was idle for longer is not used again: the server may be about to close it; seconds.
KEPT_FOR = 20.0
#: A token file is read again after so long, although its time of change is the same; seconds.
TOKEN_EVERY = 60.0
MOST_TOKEN_BYTES = 1 << 16
#: A dead peer is found out after idle + count * interval seconds of silence. See tcp(7).
KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"


class ApiError(TryAgainError):
    """The server answered with an error. ``code`` is the HTTP status, ``reason`` the machine's word (such as
    ``Conflict``), ``retry_after`` the seconds that the server asks to wait (0: it does not say).
    """

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(f"the API server says {code} {reason}: {printable(message, 500)}")


class ApiUnavailable(TryAgainError):
    """The server cannot be reached, or what came is no answer of an API server."""


class Answering(Protocol):
    """The part of an HTTP response that a watch reads."""

    def readline(self, limit: int = -1, /) -> bytes:
        """Return the next line."""

    def read(self, amount: int | None = None, /) -> bytes:
        """Return the rest, or so many bytes of it."""


class Stream:
    """An answer that is being read by one thread. Another one may ``interrupt`` a read that waits."""

    def __init__(self, connection: http.client.HTTPConnection, sock: socket.socket, response: Answering) -> None:
        self._connection = connection
        self._sock = sock
        self._response = response

    def readline(self, limit: int) -> bytes:
        """Return the next line, empty at the end. Raises OSError when the connection breaks or is silent too long."""
        try:
            return self._response.readline(limit)
        except http.client.HTTPException as error:
            raise ConnectionError(_why(error)) from error

    def read(self) -> bytes:
        """Return the whole answer. Raises as ``readline``."""
        try:
            return self._response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(_why(error)) from error

    def interrupt(self) -> None:
        """End the connection; for other threads than the one that reads."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; for the thread that reads."""
        self.interrupt()
        self._connection.close()


class Client:
    """One API server. Requests of all threads share one kept connection, one after another; each watch has its own."""

    def __init__(self, configuration: ApiConfiguration, user_agent: str = "egress-router") -> None:
        self.configuration = configuration
        self._agent = user_agent
        self._lock = threading.Lock()
        self._kept: http.client.HTTPConnection | None = None
        self._used = 0.0
        self._token = ""
        self._token_stamp: tuple[int, int, int] | None = None
        self._token_read = 0.0
        self._context: ssl.SSLContext | None = None
        self._context_stamp: object = None
        self._context_lock = threading.Lock()
        parts = urlsplit(configuration.server)
        self._https = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._https else 80)
        self._prefix = parts.path.rstrip("/")

    # Connections

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        configuration = self.configuration
        host, port = self._host, self._port
        proxy = urlsplit(configuration.proxy) if configuration.proxy else None
        if proxy is not None:
            host, port = proxy.hostname or "", proxy.port or 8080
        connection: http.client.HTTPConnection
        if self._https:
            context = self._tls()
            connection = _Https(host, port, timeout, context, configuration.server_name or self._host)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        if proxy is not None:
            connection.set_tunnel(self._host, self._port)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise ApiUnavailable(f"{configuration.server} cannot be reached: {error}") from error
        assert connection.sock is not None  # noqa: S101 - connect() made it
        _keep_alive(connection.sock)
        return connection

    def _tls(self) -> ssl.SSLContext:
        """Return the TLS settings, made anew when a file that they come from has changed."""
        configuration = self.configuration
        files = (configuration.ca_file, configuration.client_certificate_file, configuration.client_key_file)
        with self._context_lock:
            try:
                stamp = tuple(stamp_of(path) if path else None for path in files)
                if self._context is None or stamp != self._context_stamp:
                    self._context = _tls_context(configuration)
                    self._context_stamp = stamp
            except (OSError, ssl.SSLError, ValueError) as error:
                # Half a file, while it is being replaced: what worked goes on until the next connection.
                if self._context is None:
                    raise ApiUnavailable(
                        f"the certificates for {configuration.server} cannot be used: {error}"
                    ) from error
            return self._context

    def _authorization(self, *, again: bool = False) -> dict[str, str]:
        """Return the header with the token; ``again`` reads the file whatever its time of change."""
        path = self.configuration.token_file
        if path is None:
            token = self.configuration.token
        else:
            try:
                stamp = stamp_of(path)
                if again or stamp != self._token_stamp or time.monotonic() - self._token_read > TOKEN_EVERY:
                    self._token = read_regular(path, MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
                    self._token_stamp, self._token_read = stamp, time.monotonic()
            except OSError as error:
                if not self._token:
                    raise ApiUnavailable(f"the token {path} cannot be read: {error.strerror}") from error
            token = self._token
        return {"Authorization": f"Bearer {token}"} if token else {}

    # Requests

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        timeout: float = TIMEOUT,
    ) -> dict[str, Any]:
        """Send one request and return the object that the server answers with.

        Raises ApiError for an answer that is an error, ApiUnavailable when there is none. Sent a second time: with the
        token read again after a 401, and where the server had closed a kept connection, unless it is a POST.
        """
        payload = None if body is None else json.dumps(body).encode()
        with self._lock:
            for attempt in (1, 2):
                kept, self._kept = self._kept, None
                if kept is not None and (time.monotonic() - self._used > KEPT_FOR or _readable(kept.sock)):
                    kept.close()
                    kept = None
                connection = kept if kept is not None else self._connect(timeout)
                try:
                    response = self._send(connection, method, path, query, payload, content_type, again=attempt == 2)
                    data = response.read()
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    if attempt == 1 and kept is not None and method != "POST":
                        continue
                    raise ApiUnavailable(f"{method} {path} has no answer: {_why(error)}") from error
                if response.will_close:
                    connection.close()
                else:
                    self._kept, self._used = connection, time.monotonic()
                if response.status == http.HTTPStatus.UNAUTHORIZED and attempt == 1:
                    continue
                return _answer(response, data)
        raise ApiUnavailable(f"{method} {path} has no answer")  # pragma: no cover - the second attempt ends the loop

    def stream(
        self, path: str, query: Mapping[str, str], read_timeout: float, accept: str = JSON, timeout: float = TIMEOUT
    ) -> Stream:
        """Begin a request whose answer is read line by line, on a connection of its own. Raises as ``request`` does."""
        for attempt in (1, 2):
            connection = self._connect(timeout)
            # http.client forgets the socket where the server is to close the connection.
            sock = connection.sock
            assert sock is not None  # noqa: S101 - it is connected
            try:
                response = self._send(connection, "GET", path, query, None, JSON, accept, again=attempt == 2)
                if response.status == http.HTTPStatus.OK:
                    sock.settimeout(read_timeout)
                    return Stream(connection, sock, response)
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise ApiUnavailable(f"GET {path} has no answer: {_why(error)}") from error
            connection.close()
            if response.status != http.HTTPStatus.UNAUTHORIZED or attempt == 2:
                _answer(response, data)
                raise ApiUnavailable(f"GET {path}: the server answers {response.status} without an error")
        raise ApiUnavailable(f"GET {path} has no answer")  # pragma: no cover - the second attempt ends the loop

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        payload: bytes | None,
        content_type: str,
        accept: str = JSON,
        *,
        again: bool = False,
    ) -> http.client.HTTPResponse:
        target = self._prefix + quote(path, safe="/:") + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept, "User-Agent": self._agent, **self._authorization(again=again)}
        if payload is not None:
            headers["Content-Type"] = content_type
        connection.request(method, target, body=payload, headers=headers)
        return connection.getresponse()

    def close(self) -> None:
        """Close the kept connection."""
        with self._lock:
            if self._kept is not None:
                self._kept.close()
                self._kept = None


class _Https(http.client.HTTPSConnection):
    """HTTPS to a server whose certificate has another name than the connection goes to (tls-server-name, proxies)."""

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls_context = context
        self._name = name

    def connect(self) -> None:
        """Connect, through the proxy if there is one, and shake hands."""
        http.client.HTTPConnection.connect(self)
        assert self.sock is not None  # noqa: S101 - connect() made it
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._name)


def _tls_context(configuration: ApiConfiguration) -> ssl.SSLContext:
    ca_file = str(configuration.ca_file) if configuration.ca_file else None
    context = ssl.create_default_context(cafile=ca_file, cadata=configuration.ca_data or None)
    # On from Python 3.13. Authorities that OpenSSL or a cloud made lack what RFC 5280 wants of them (key usage and
    # key identifiers), and other clients of Kubernetes take them. Chain, name and times are verified.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.client_certificate_file is not None:
        key = configuration.client_key_file
        context.load_cert_chain(configuration.client_certificate_file, key)
    elif configuration.client_pem:
        # load_cert_chain() takes files only.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(configuration.client_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _readable(sock: socket.socket | None) -> bool:
    """Return whether something waits on an idle connection, which is its end, or nothing that was asked for."""
    if sock is None:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _answer(response: http.client.HTTPResponse, data: bytes) -> dict[str, Any]:
    """Return the object in an answer; raise what it says when it is an error."""
    try:
        parsed = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        parsed = None
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        status = parsed if isinstance(parsed, dict) else {}
        raise status_error(
            {"code": response.status, **status}, response.headers.get("Retry-After"), data.decode(errors="replace")
        )
    if not isinstance(parsed, dict):
        raise ApiUnavailable(f"the answer is not a JSON object: {printable(data.decode(errors='replace'), 80)}")
    return parsed


def status_error(status: Mapping[str, Any], retry_after: str | None = None, text: str = "") -> ApiError:
    """Return the error that a Status object (of an answer or of an ERROR event) tells."""
    code = status.get("code")
    details = status.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, Mapping) else None
    try:
        wait = float(retry_after if retry_after is not None else seconds or 0)
    except (TypeError, ValueError):
        wait = 0.0
    return ApiError(
        code if isinstance(code, int) else 0,
        str(status.get("reason") or "Error"),
        str(status.get("message") or text or "no message"),
        min(max(wait, 0.0), 300.0),
    )
