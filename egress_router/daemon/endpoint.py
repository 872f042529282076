"""`/healthz`, `/readyz` and further pages over HTTP, each request in a thread of its own.

Answers come from what the process's loop has noted and, for figures, from where they are kept; the loop waits for none
of them.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Protocol

from egress_router import __version__
from egress_router.errors import EgressRouterError, PlatformError

log = logging.getLogger(__name__)

#: Loops turn every second or faster; a reload of tens of thousands of rules by iptables takes seconds.
STUCK_SECONDS = 30.0
REQUESTS_AT_ONCE = 16
_TIMEOUT_SECONDS = 5.0
Answer = tuple[int, str, bytes]
_TEXT = "text/plain; charset=utf-8"


class Subject(Protocol):
    """The process that is asked about. Read by several threads at once."""

    @property
    def turned(self) -> float:
        """When its loop last turned, in seconds of time.monotonic()."""

    def reasons(self, now: float) -> list[str]:
        """Return why it is not ready, a sentence each; nothing when it is. ``now`` is time.monotonic()."""


class EndpointServer(ThreadingTCPServer):
    """Listens on ``port`` of ``address``, or of all addresses; then the rules keep the egress side away. Raises
    PlatformError, which names ``variable`` as the place to choose another port.

    `/healthz` and `/readyz` come from ``subject``; ``pages`` are further ones, by path. ``remarks`` are sentences that
    `/readyz` shows also when all is well enough.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        port: int,
        subject: Subject,
        pages: Mapping[str, Callable[[], Answer]],
        variable: str = "EGRESS_HEALTH_PORT",
        address: str = "",
        remarks: Callable[[], list[str]] = list,
    ) -> None:
        both = not address and Path("/proc/net/if_inet6").exists()
        self.address_family = socket.AF_INET6 if both or ":" in address else socket.AF_INET
        self._slots = threading.BoundedSemaphore(REQUESTS_AT_ONCE)
        self.pages: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: _healthz(subject),
            "/readyz": lambda: _readyz(subject, remarks),
            **pages,
        }
        try:
            every = "::" if both else "0.0.0.0"  # noqa: S104
            super().__init__((address or every, port), _Handler, bind_and_activate=False)
            if both:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self.server_bind()
            self.server_activate()
        except OSError as error:
            self.server_close()
            raise PlatformError(
                f"{variable}={port} cannot be listened on: {error.strerror}; choose another port, or off"
            ) from error

    def start(self) -> None:
        """Serve from a thread that ends with the process."""
        threading.Thread(target=self.serve_forever, name="endpoint", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Refuse a request when too many are under way: probes are few, and memory is little."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection and free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def nothing_here(self) -> Answer:
        """Return the answer to a path without a page."""
        return 404, _TEXT, f"there are {' '.join(self.pages)}\n".encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""
        log.debug("a request for health or figures failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server_version = f"egress-router/{__version__}"
    sys_version = ""
    timeout = _TIMEOUT_SECONDS

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, EndpointServer)  # noqa: S101
        page = server.pages.get(self.path.partition("?")[0])
        try:
            status, kind, body = page() if page else server.nothing_here()
        except EgressRouterError as error:
            status, kind, body = 500, _TEXT, f"{error}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for that name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Probes come every few seconds; they are not logged."""


def _healthz(subject: Subject) -> Answer:
    silent = time.monotonic() - subject.turned
    if silent > STUCK_SECONDS:
        return 503, _TEXT, f"the loop has not turned for {silent:.0f} s\n".encode()
    return 200, _TEXT, b"ok\n"


def _readyz(subject: Subject, remarks: Callable[[], list[str]]) -> Answer:
    reasons = subject.reasons(time.monotonic())
    lines = [*(reasons or ["ready"]), *remarks()]
    return 503 if reasons else 200, _TEXT, ("\n".join(lines) + "\n").encode()


def json_page(value: Callable[[], Any]) -> Callable[[], Answer]:
    """Return a page that shows ``value()`` as JSON."""
    return lambda: (200, "application/json", json.dumps(value()).encode() + b"\n")
