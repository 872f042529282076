"""A small API server on loopback that can misbehave: lists in pages, watches with bookmarks and initial events."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from egress_router.kubernetes.configuration import ApiConfiguration

PATH = "/apis/test/v1/things"
#: What the next connection does instead of answering well.
FAULTS = ("error", "busy", "cut", "garbage", "gone", "silent", "ends", "unauthorized", "not-json", "half-list")


class FakeApi:
    """Things with a name and a value. ``faults`` are used up by one connection each, in order."""

    def __init__(self, *, streaming: bool = True) -> None:
        self.streaming = streaming
        self.token = "first"
        self.faults: deque[str] = deque()
        self.requests: list[str] = []
        self.condition = threading.Condition()
        self.version = 1
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.closing = False
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _answer(self, api)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                """Connections that break are what these tests are about."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.configuration = ApiConfiguration(f"http://127.0.0.1:{self.server.server_port}", token="first")  # noqa: S106 - of a fake

    def set(self, name: str, value: int, uid: str = "") -> None:
        """Create or change a thing."""
        with self.condition:
            self.version += 1
            old = self.objects.get(name)
            kept = uid or (old["metadata"]["uid"] if old else f"{name}-{self.version}")
            raw = {
                "kind": "Thing",
                "metadata": {"name": name, "uid": kept, "resourceVersion": str(self.version)},
                "spec": {"value": value},
            }
            self.objects[name] = raw
            self.history.append((self.version, "MODIFIED" if old else "ADDED", raw))
            self.condition.notify_all()

    def delete(self, name: str) -> None:
        """Remove a thing."""
        with self.condition:
            raw = self.objects.pop(name, None)
            if raw is not None:
                self.version += 1
                raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self.version)}}
                self.history.append((self.version, "DELETED", raw))
                self.condition.notify_all()

    def values(self) -> dict[str, int]:
        """Return what a client should know, by uid."""
        with self.condition:
            return {raw["metadata"]["uid"]: raw["spec"]["value"] for raw in self.objects.values()}


@contextmanager
def fake_api(*, streaming: bool = True) -> Iterator[FakeApi]:
    """Run one."""
    api = FakeApi(streaming=streaming)
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        with api.condition:
            api.closing = True
            api.condition.notify_all()
        api.server.shutdown()
        api.server.server_close()


def _send(handler: BaseHTTPRequestHandler, code: int, body: object, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _status(code: int, reason: str) -> dict[str, object]:
    return {"kind": "Status", "code": code, "reason": reason, "message": f"a test wants {reason}"}


def _answer(handler: BaseHTTPRequestHandler, api: FakeApi) -> None:
    query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
    with api.condition:
        api.requests.append(handler.path)
        fault = api.faults.popleft() if api.faults else ""
        objects, version = list(api.objects.values()), api.version
    if fault == "unauthorized" or handler.headers.get("Authorization") != f"Bearer {api.token}":
        _send(handler, 401, _status(401, "Unauthorized"))
    elif fault == "error":
        _send(handler, 500, b"something else went wrong")
    elif fault == "busy":
        _send(handler, 429, _status(429, "TooManyRequests"), Retry_After="0")
    elif fault == "not-json":
        _send(handler, 200, b"<html>a proxy's page</html>\n")
    elif "watch" not in query:
        if fault == "gone":
            _send(handler, 410, _status(410, "Expired"))
            return
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "500"))
        metadata = {"resourceVersion": str(version)}
        if start + limit < len(objects):
            metadata["continue"] = str(start + limit)
        data = json.dumps({"kind": "ThingList", "items": objects[start : start + limit], "metadata": metadata}).encode()
        _send(handler, 200, data[: len(data) // 2] if fault == "half-list" else data)
    elif "sendInitialEvents" in query and not api.streaming:
        _send(handler, 422, _status(422, "Invalid"))
    else:
        _watch(handler, api, query, fault, objects, version)


def _watch(
    handler: BaseHTTPRequestHandler,
    api: FakeApi,
    query: dict[str, str],
    fault: str,
    objects: list[dict[str, Any]],
    version: int,
) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()

    def chunk(data: bytes) -> None:
        handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()

    def event(kind: str, raw: dict[str, Any]) -> None:
        chunk(json.dumps({"type": kind, "object": raw}).encode() + b"\n")

    def broken() -> bool:
        if fault == "cut":
            chunk(b'{"type": "MODIFIED", "object": {"meta')
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "garbage":
            chunk(b"{this is no JSON}\n")
        elif fault in ("gone", "half-list"):
            event("ERROR", _status(410, "Expired"))
        elif fault == "silent":
            threading.Event().wait(1.0)
        return bool(fault)

    handler.close_connection = True
    if "sendInitialEvents" in query:
        for number, raw in enumerate(objects):
            if number == len(objects) // 2 and fault and broken():
                return
            event("ADDED", raw)
        end = {"metadata": {"resourceVersion": str(version), "annotations": {"k8s.io/initial-events-end": "true"}}}
        event("BOOKMARK", {"kind": "Thing", **end})
    else:
        version = int(query["resourceVersion"])
    while True:
        with api.condition:
            while not api.closing and not fault and api.version <= version and not api.faults:
                api.condition.wait(0.5)
            news = [entry for entry in api.history if entry[0] > version]
            version = api.version
            late = api.faults.popleft() if api.faults and not fault else ""
        if api.closing or fault:
            broken()
            chunk(b"")
            return
        for _, kind, raw in news:
            event(kind, raw)
        fault = late
