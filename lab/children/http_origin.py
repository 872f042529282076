"""A small HTTP/1.1 server for proxy tests.

Usage: http_origin.py '{"address": IP, "port": PORT}'. Ends when standard input closes; each line of it is answered
with the requests so far. Paths: see HttpServer in servers.py.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

requests: list[dict[str, Any]] = []
BLOCK = b"0123456789abcdef" * 4096


class Handler(BaseHTTPRequestHandler):
    """Answers every method alike."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "lab"
    sys_version = ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the requests are kept instead."""

    def answer(self) -> None:
        """Do what the path says."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        peer, local = self.client_address, self.connection.getsockname()
        seen = {
            "time": time.time(),
            "peer": peer[0],
            "local": local[0],
            "method": self.command,
            "path": self.path,
            "headers": dict(self.headers.items()),
            "body": body.decode("latin-1"),
        }
        requests.append(seen)
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        words = parts.path.strip("/").split("/")
        if words[0] == "bytes":
            self.blocks(int(words[1]), float(query.get("seconds", 0)))
        elif words[0] == "stream":
            self.stream(int(words[1]), float(query.get("seconds", 1)))
        elif words[0] == "wait":
            time.sleep(float(words[1]))
            self.whole(200, b"done\n")
        elif words[0] == "status":
            self.whole(int(words[1]), b"")
        elif words[0] == "headers":
            self.whole(200, json.dumps(seen["headers"]).encode(), "application/json")
        else:
            text = f"{peer[0]} {peer[1]} {local[0]} {local[1]} {self.command} {self.path}\n"
            self.whole(200, text.encode() + body)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_OPTIONS = answer  # noqa: N815 - the base class's names

    def whole(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        """Send one answer with its length."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def blocks(self, size: int, seconds: float) -> None:
        """Send ``size`` bytes with their length, spread over about ``seconds``."""
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        step = max(1, min(len(BLOCK), size // 100)) if seconds else len(BLOCK)
        for start in range(0, size, step):
            self.wfile.write(BLOCK[: min(step, size - start)])
            if seconds:
                time.sleep(seconds * step / size)

    def stream(self, count: int, seconds: float) -> None:
        """Send ``count`` chunks without a length, one every ``seconds``/``count``."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(count):
            line = f"chunk {number}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            time.sleep(seconds / count)
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    """One thread per connection, that ends with the process."""

    daemon_threads = True
    request_queue_size = 4096

    def server_bind(self) -> None:
        """Bind without looking up our own name, which takes seconds where there is no DNS server."""
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go away at any time; anything else is worth its traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    """Serve in a thread; answer questions about the requests."""
    settings = json.loads(sys.argv[1])
    Server.address_family = socket.AF_INET6 if ":" in settings["address"] else socket.AF_INET
    server = Server((settings["address"], settings["port"]), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print('{"result": null}', flush=True)
    for _ in sys.stdin:
        print(json.dumps({"result": requests}), flush=True)


if __name__ == "__main__":
    main()
