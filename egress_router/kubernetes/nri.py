"""Follow a node's pods at their source: a plugin of the container runtime, by the Node Resource Interface (NRI).

containerd (from 2.0 on without a setting) and CRI-O tell a plugin of a new pod after its network is there and before
any of its containers runs, and wait for the answer. See https://github.com/containerd/nri, pkg/api/api.proto. What
stands here about the runtime's habits was seen with containerd 2.4.

The runtime calls its plugins one after another, and everything else on the node waits meanwhile. One that fails makes
the pod fail; one that is silent for two seconds is left out from then on. So every call is answered, whatever it says
and whatever becomes of it here, and always with nothing: the plugin listens, and changes nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from egress_router.kubernetes.protobuf import Malformed, fields, message, number, pair, text, written
from egress_router.kubernetes.thread import Heartbeat, StartThread, pause
from egress_router.kubernetes.ttrpc import (
    REQUEST,
    RESPONSE,
    Message,
    Messages,
    Request,
    read_error,
    read_request,
    request,
    response,
)

#: Where runtimes listen, unless they are told otherwise.
SOCKET = Path("/var/run/nri/nri.sock")
#: The runtime calls by the first connection, we by the second.
_FROM_RUNTIME, _TO_RUNTIME = 1, 2
_RUNTIME = "nri.pkg.api.v1alpha1.Runtime"
#: Plugins are called in the order of this number, two digits: others, which may change a pod, come first.
_INDEX = "90"
_RUN, _STOP, _REMOVE = 1, 2, 3
_EVENTS = sum(1 << (event - 1) for event in (_RUN, _STOP, _REMOVE))
#: Runtimes of before NRI 0.10 have one method for all events.
_METHODS = {"RunPodSandbox": _RUN, "StopPodSandbox": _STOP, "RemovePodSandbox": _REMOVE}
#: Registrations are served one at a time, and another plugin's may take five seconds.
REGISTER_SECONDS = 15.0
#: Between attempts to connect; seconds.
RETRY = 0.5
#: The thread turns so often although nothing comes; seconds.
_TURN = 1.0
_READ_BYTES = 1 << 16
#: Labels that containerd and CRI-O put beside those of the pod.
_RUNTIMES_OWN = frozenset(
    {
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.pod.uid",
        "io.kubernetes.container.name",
        "io.cri-containerd.kind",
        "oci_runtime_type",
    }
)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What holds a pod's network. A pod may have several in its life, one after another, with one ``uid``; ``uid`` is
    that of the pod in the API, but for static pods. ``labels`` are those at the pod's creation, ``ips`` as written by
    the runtime: none on the host's network. ``stopped``: it is listed still, and its addresses may be another's.
    """

    id: str
    uid: str
    namespace: str
    name: str
    labels: tuple[tuple[str, str], ...]
    ips: tuple[str, ...]
    stopped: bool = False


class Listener(Protocol):
    """Is told of the node's pods, by one thread."""

    def listed(self, sandboxes: Collection[Sandbox]) -> None:
        """Take in all that there are, in place of what was known."""

    def started(self, sandbox: Sandbox) -> bool:
        """Take in a new one. No container of its pod runs before this returns whether all that it needs is in place."""

    def stopped(self, sandbox: str) -> None:
        """Take in that no process of it runs any more, by its id; its addresses are not given back yet."""

    def lost(self) -> None:
        """Nothing is heard any more, until ``listed``. Called again with every attempt that fails."""

    def turn(self) -> bool:
        """Called every second; return whether all are to be listed anew."""


class Plugin:
    """A plugin of the runtime that listens at ``path``; comes back for ever. ``required``: that the runtime cannot be
    reached is trouble also where nobody has ever listened there.
    """

    def __init__(
        self,
        path: Path,
        listener: Listener,
        log: Callable[[str], None],
        *,
        required: bool = False,
        name: str = "egress-router",
        retry: float = RETRY,
    ) -> None:
        self.path = path
        self._listener = listener
        self._log = log
        self._required = required
        self._name = name
        self._retry = retry
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None
        self._listing: list[Sandbox] = []
        #: Whether the runtime tells of its pods now, and why not (empty: nobody has ever listened there).
        self.connected = False
        self.why_not = ""
        #: Calls by what they told, those that were not understood or failed here; of all, the seconds that they took.
        self.calls: Counter[str] = Counter()
        self.failures = 0
        #: Calls that were answered.
        self.answers = 0
        self.seconds = 0.0
        #: Pods that started before what they need was in place.
        self.late = 0

    @property
    def in_use(self) -> bool:
        """Whether the runtime has told of pods, or shall."""
        return self._required or bool(self.calls)

    @property
    def trouble(self) -> str:
        """What is wrong, empty when nothing is: nobody needs to listen there unless that was required."""
        if self.connected or not self.in_use:
            return ""
        return f"{self.path}: {self.why_not or 'not connected yet'}"

    def start(self, start: StartThread) -> None:
        """Begin, in a thread of its own."""
        start("container runtime", self._run, limit=REGISTER_SECONDS * 2)

    def stop(self) -> None:
        """End, without waiting for the thread."""
        self._stopping.set()
        connection = self._socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # The thread

    def _run(self, beat: Heartbeat) -> None:
        while not self._stopping.is_set():
            try:
                why = self._connection(beat)
            except (OSError, Malformed) as error:
                why = _reason(error)
            if not why:
                # It was left to have all listed anew.
                continue
            if self._stopping.is_set():
                break
            self._note_lost(why)
            pause(self._stopping, self._retry, beat)
        self.connected = False

    def _note_lost(self, why: str) -> None:
        was_connected, self.connected = self.connected, False
        absent = not self.path.exists() and not self.calls and not self._required
        why = "" if absent else why
        if why != self.why_not or was_connected:
            self.why_not = why
            if why:
                self._log(f"the container runtime does not tell of pods ({self.path}): {why}; the API does")
        self._listener.lost()

    def _connection(self, beat: Heartbeat) -> str:
        """Follow the runtime; return why it is over, "" where it was ended to have all listed anew."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TURN)
            connection.connect(os.fspath(self.path))
            self._socket = connection
            try:
                return self._follow(connection, beat)
            finally:
                self._socket = None

    def _follow(self, connection: socket.socket, beat: Heartbeat) -> str:
        messages = Messages((_FROM_RUNTIME, _TO_RUNTIME))
        self._listing = []
        listed_before = self.calls["synchronize"]
        asked = request(_TO_RUNTIME, 1, _RUNTIME, "RegisterPlugin", written(1, self._name) + written(2, _INDEX))
        connection.sendall(asked)
        until = time.monotonic() + REGISTER_SECONDS
        while not self._stopping.is_set():
            beat()
            try:
                data = connection.recv(_READ_BYTES)
            except TimeoutError:
                data = None
            if data == b"":
                return "it has closed the connection"
            for got in messages.take(data) if data else ():
                self._take(connection, got)
            if self.calls["synchronize"] == listed_before:
                if time.monotonic() > until:
                    return f"it has not answered for {REGISTER_SECONDS:.0f} s"
            elif data is None and self._listener.turn():
                return ""
        return "stopped"

    def _take(self, connection: socket.socket, got: Message) -> None:
        if got.kind == RESPONSE:
            refused = read_error(got)
            if refused:
                raise Malformed(f"it refuses this plugin: {refused}")
        elif got.kind == REQUEST:
            began = time.monotonic()
            answer = b""
            try:
                answer = self._answer(read_request(got))
            except Exception as error:  # noqa: BLE001 - what is wrong here must not keep a pod from starting
                self.failures += 1
                self._log(f"a call of the container runtime was not understood: {type(error).__name__}: {error}")
            connection.sendall(response(got, answer))
            self.answers += 1
            self.seconds += time.monotonic() - began

    def _answer(self, call: Request) -> bytes:
        if call.method == "Configure":
            return written(2, _EVENTS)
        if call.method == "Synchronize":
            return self._synchronize(call.payload)
        if call.method == "StateChange":
            event, pod = 0, b""
            for place, value in fields(call.payload):
                if place == 1:
                    event = number(value)
                elif place == 2:
                    pod = message(value)
            self._event(event, pod)
        elif call.method in _METHODS:
            for place, value in fields(call.payload):
                if place == 1:
                    self._event(_METHODS[call.method], message(value))
        return b""

    def _synchronize(self, payload: bytes) -> bytes:
        """Take in the list, which comes in parts where it is long."""
        more = False
        for place, value in fields(payload):
            if place == 1:
                self._listing.append(read_sandbox(message(value)))
            elif place == 3:
                more = bool(number(value))
        if more:
            return written(2, 1)
        listing, self._listing = self._listing, []
        self._listener.listed([sandbox for sandbox in listing if not sandbox.stopped])
        if not self.connected:
            self._log(f"the container runtime tells of pods ({self.path})")
        self.connected, self.why_not = True, ""
        self.calls["synchronize"] += 1
        return b""

    def _event(self, event: int, pod: bytes) -> None:
        if event == _RUN:
            self.calls["run"] += 1
            self.late += not self._listener.started(read_sandbox(pod))
        elif event in (_STOP, _REMOVE):
            self.calls["stop" if event == _STOP else "remove"] += 1
            self._listener.stopped(read_sandbox(pod).id)


def _reason(error: OSError | Malformed) -> str:
    if isinstance(error, OSError):
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return "nobody listens there"
        return error.strerror or type(error).__name__
    return str(error)


def read_sandbox(pod: bytes) -> Sandbox:
    """Return what a PodSandbox message says. Raises Malformed."""
    texts = {1: "", 2: "", 3: "", 4: ""}
    labels: dict[str, str] = {}
    ips: list[str] = []
    process = 0
    has_network = False
    for place, value in fields(pod):
        if place in texts:
            texts[place] = text(value)
        elif place == 5:
            key, content = pair(value)
            if key not in _RUNTIMES_OWN:
                labels[key] = content
        elif place == 8:
            has_network = _has_network(message(value))
        elif place == 9:
            process = number(value)
        elif place == 10:
            ips.append(text(value))
    # A stopped one has neither. In a list of CRI-O's, which starts no process where none is needed, those that live
    # look the same: of them the API tells.
    stopped = not process and not has_network
    return Sandbox(texts[1], texts[3], texts[4], texts[2], tuple(sorted(labels.items())), tuple(ips), stopped)


def _has_network(linux: bytes) -> bool:
    """Return whether a LinuxPodSandbox has a network namespace of its own."""
    for place, value in fields(linux):
        if place == 5:
            namespace = dict(fields(message(value)))
            if text(namespace.get(1, b"")) == "network":
                return True
    return False
