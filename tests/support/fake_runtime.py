"""The runtime's side of the Node Resource Interface, as containerd 2.4 behaves: it calls plugins and waits for them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from egress_router.kubernetes.nri import Sandbox
from egress_router.kubernetes.protobuf import fields, message, text, written
from egress_router.kubernetes.ttrpc import (
    FRAME_BYTES,
    REQUEST,
    RESPONSE,
    Message,
    Messages,
    framed,
    read_request,
)

PLUGIN = "nri.pkg.api.v1alpha1.Plugin"
TO_PLUGIN, FROM_PLUGIN = 1, 2
#: What containerd puts among the labels of a pod.
OWN_LABELS = {"io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.namespace": "shop"}


def sandbox_message(sandbox: Sandbox, extra: Mapping[str, str] = OWN_LABELS) -> bytes:
    """Return a PodSandbox as containerd writes it."""
    head = ((1, sandbox.id), (2, sandbox.name), (3, sandbox.uid), (4, sandbox.namespace))
    body = b"".join(written(place, value) for place, value in head)
    for key, value in {**dict(sandbox.labels), **extra}.items():
        body += written(5, written(1, key) + written(2, value))
    body += written(6, written(1, "kubernetes.io/config.source") + written(2, "api")) + written(7, "runc")
    kinds = ["pid", "ipc", *([] if sandbox.stopped else ["network"])]
    linux = written(3, "/kubepods") + b"".join(written(5, written(1, kind) + written(2, "/proc")) for kind in kinds)
    body += written(8, linux)
    if not sandbox.stopped:
        body += written(9, 4242)
    return body + b"".join(written(10, ip) for ip in sandbox.ips)


def listing(sandboxes: Iterable[Sandbox], *, more: bool = False) -> bytes:
    """Return a SynchronizeRequest, with a container that nobody asked for."""
    body = b"".join(written(1, sandbox_message(sandbox)) for sandbox in sandboxes)
    return body + written(2, written(1, "container")) + (written(3, 1) if more else b"")


class FakeRuntime:
    """One connection of a plugin. ``cut``: what is sent is cut into pieces of so many bytes."""

    def __init__(self, connection: socket.socket, cut: int = 1 << 20) -> None:
        self.connection = connection
        self._cut = cut
        self._messages = Messages((TO_PLUGIN, FROM_PLUGIN))
        self._waiting: list[Message] = []
        self._stream = 1
        connection.settimeout(10)

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), self._cut):
            self.connection.sendall(data[at : at + self._cut])

    def read(self) -> Message:
        """Return the next message. Raises EOFError at the end."""
        while not self._waiting:
            data = self.connection.recv(65536)
            if not data:
                raise EOFError
            assert len(data) <= FRAME_BYTES + 8, "one frame at a time"
            self._waiting += self._messages.take(data)
        return self._waiting.pop(0)

    def registered(self) -> tuple[str, str]:
        """Take the plugin's registration; return its name and index."""
        asked = self.read()
        assert (asked.connection, asked.kind) == (FROM_PLUGIN, REQUEST)
        call = read_request(asked)
        assert (call.service, call.method) == ("nri.pkg.api.v1alpha1.Runtime", "RegisterPlugin")
        self.send(framed(Message(FROM_PLUGIN, asked.stream, RESPONSE, b"")))
        given = dict(fields(call.payload))
        return text(given[1]), text(given[2])

    def ask(self, method: str, payload: bytes) -> int:
        """Call a method; return the number of the call."""
        self._stream += 2
        body = written(1, PLUGIN) + written(2, method) + written(3, payload) + written(4, 2_000_000_000)
        self.send(framed(Message(TO_PLUGIN, self._stream, REQUEST, body)))
        return self._stream

    def call(self, method: str, payload: bytes = b"") -> bytes:
        """Return what a method answers; it must be no error."""
        asked = self.ask(method, payload)
        answer = self.read()
        assert (answer.connection, answer.stream, answer.kind) == (TO_PLUGIN, asked, RESPONSE)
        found = dict(fields(answer.payload))
        assert 1 not in found, "an error would make the pod fail"
        return message(found.get(2, b""))

    def begin(self, *sandboxes: Sandbox) -> None:
        """Have the plugin register and take in what there is."""
        self.registered()
        assert self.call("Configure", written(2, "containerd")) == written(2, 7)
        assert self.call("Synchronize", listing(sandboxes)) == b""


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen as the runtime does, anew in the place of what was there."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(8)
        listener.settimeout(10)
        yield listener
    path.unlink(missing_ok=True)
