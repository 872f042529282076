"""`/healthz`, `/readyz`, `/metrics` and `/status` over HTTP, each request in a thread of its own.

Answers come from what the loop has noted and, for the figures, from the kernel; the loop waits for none of them.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from egress_router import __version__
from egress_router.errors import EgressRouterError, PlatformError
from egress_router.runtime.log import LOGGER
from egress_router.runtime.state import State

#: The loop turns every second; a reload of tens of thousands of rules by iptables takes seconds.
STUCK_SECONDS = 30.0
REQUESTS_AT_ONCE = 16
_TIMEOUT_SECONDS = 5.0
Answer = tuple[int, str, bytes]
_TEXT = "text/plain; charset=utf-8"


class HealthServer(ThreadingTCPServer):
    """Listens on ``port`` of all addresses; the rules keep the egress side away. Raises PlatformError."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, state: State, pages: dict[str, Callable[[], Answer]]) -> None:
        both = Path("/proc/net/if_inet6").exists()
        self.address_family = socket.AF_INET6 if both else socket.AF_INET
        self._slots = threading.BoundedSemaphore(REQUESTS_AT_ONCE)
        own: dict[str, Callable[[], Answer]] = {"/healthz": lambda: _healthz(state), "/readyz": lambda: _readyz(state)}
        self.pages = own | pages
        try:
            super().__init__(("::" if both else "0.0.0.0", port), _Handler, bind_and_activate=False)  # noqa: S104
            if both:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self.server_bind()
            self.server_activate()
        except OSError as error:
            self.server_close()
            raise PlatformError(
                f"EGRESS_HEALTH_PORT={port} cannot be listened on: {error.strerror}; choose another port, or off"
            ) from error

    def start(self) -> None:
        """Serve from a thread that ends with the process."""
        threading.Thread(target=self.serve_forever, name="health", daemon=True).start()

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""
        LOGGER.debug("a health request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server_version = f"egress-router/{__version__}"
    sys_version = ""
    timeout = _TIMEOUT_SECONDS

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, HealthServer)  # noqa: S101
        page = server.pages.get(self.path.partition("?")[0])
        try:
            status, kind, body = page() if page else (404, _TEXT, b"there are /healthz /readyz /metrics /status\n")
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


def _healthz(state: State) -> Answer:
    silent = time.monotonic() - state.turned
    if silent > STUCK_SECONDS:
        return 503, _TEXT, f"the loop has not turned for {silent:.0f} s\n".encode()
    return 200, _TEXT, b"ok\n"


def _readyz(state: State) -> Answer:
    reasons = state.reasons(time.monotonic())
    return (503, _TEXT, ("\n".join(reasons) + "\n").encode()) if reasons else (200, _TEXT, b"ready\n")


def json_page(value: Callable[[], Any]) -> Callable[[], Answer]:
    """Return a page that shows ``value()`` as JSON."""
    return lambda: (200, "application/json", json.dumps(value()).encode() + b"\n")
