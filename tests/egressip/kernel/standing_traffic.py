"""Connections and flows that go on and on, and what became of each."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Self

from lab import Host
from tests.egressip.kernel.egress_scene import FAMILY, SERVICES


@dataclass(slots=True)
class _One:
    """A socket: what it waits for, what it heard, and the longest time without an answer; seconds."""

    opened: socket.socket
    version: int
    stream: bool
    sent: int = 0
    sent_at: float = 0.0
    waits: bytes = b""
    answered_at: float = 0.0
    longest: float = 0.0
    answers: int = 0
    sources: set[str] = field(default_factory=set)
    error: str = ""


class Traffic:
    """TCP connections that carry numbered data there and back, and UDP flows, of each of some pods and each family. A
    context manager; all have had an answer when it begins.
    """

    #: A stream sends so long after an answer, a flow so long after it sent last; seconds.
    EVERY = 0.02

    def __init__(self, pods: Iterable[Host], streams: int, flows: int = 0) -> None:
        self.all: list[_One] = []
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._pauses = threading.Event()
        self._given_up = 0
        self._lock = threading.Lock()
        for pod, version in product(pods, FAMILY):
            for number in range(streams + flows):
                stream = number < streams
                opened = pod.socket(FAMILY[version], socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
                opened.settimeout(5)
                opened.connect((SERVICES[version], 80 if stream else 53))
                one = _One(opened, version, stream)
                opened.sendall(b"hello")
                one.sources.add(opened.recv(300).decode().split()[0])
                opened.setblocking(False)
                one.answered_at = one.sent_at = time.monotonic()
                self._selector.register(opened, selectors.EVENT_READ, one)
                self.all.append(one)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        for one in self.all:
            one.opened.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(self.EVERY / 2):
                self._hear(key.data)
            now = time.monotonic()
            for one in self.all:
                if not one.error and now - max(one.sent_at, one.answered_at if one.stream else 0.0) >= self.EVERY:
                    self._send(one, now)

    def _send(self, one: _One, now: float) -> None:
        if (one.stream and one.waits) or self._pauses.is_set():
            return
        one.sent += 1
        data = b"%09d\n" % one.sent
        try:
            one.opened.send(data)
        except BlockingIOError:
            return
        except OSError as error:
            if one.stream:
                one.error = str(error)
            return
        one.sent_at = now
        one.waits = data if one.stream else b""

    def _hear(self, one: _One) -> None:
        try:
            data = one.opened.recv(2000)
        except BlockingIOError:
            return
        except OSError as error:
            if one.stream:
                one.error = str(error)
                self._selector.unregister(one.opened)
            return
        now = time.monotonic()
        if one.stream:
            if not data or not one.waits.startswith(data):
                one.error = f"heard {data!r} instead of {one.waits!r}" if data else "closed"
                self._selector.unregister(one.opened)
                return
            one.waits = one.waits[len(data) :]
            if one.waits:
                return
        else:
            one.sources.add(data.decode().split()[0])
        with self._lock:
            one.longest = max(one.longest, now - one.answered_at)
            one.answered_at, one.answers = now, one.answers + 1

    @property
    def lost(self) -> list[str]:
        """Why streams ended."""
        return [one.error for one in self.all if one.error]

    def sources(self, version: int) -> set[str]:
        """The sources that the service saw."""
        return set().union(*(one.sources for one in self.all if one.version == version))

    def silence(self, version: int, *, streams: bool) -> float:
        """Return the longest time that any connection, or flow, of a family had no answer, until now; seconds."""
        now = time.monotonic()
        some = [one for one in self.all if one.stream is streams and one.version == version]
        with self._lock:
            return max(max(one.longest, now - one.answered_at) for one in some)

    def unanswered(self) -> int:
        """Stop for a moment; return how many datagrams, since this was asked last, have had no answer."""
        flows = [one for one in self.all if not one.stream]
        self._pauses.set()
        try:
            end = time.monotonic() + 0.5
            while (left := sum(one.sent - one.answers for one in flows) - self._given_up) and time.monotonic() < end:
                time.sleep(0.01)
            self._given_up += left
            return left
        finally:
            self._pauses.clear()

    def forget_silence(self) -> None:
        """Count silence from now on."""
        with self._lock:
            for one in self.all:
                one.longest = 0.0

    def all_answered_since(self, moment: float) -> bool:
        """Return whether each has had an answer after a moment of time.monotonic(); those that ended have none."""
        with self._lock:
            return all(not one.error and one.answered_at > moment for one in self.all)

    def silent_since(self, moment: float) -> dict[str, int]:
        """Return how many of each kind have had no answer since."""
        with self._lock:
            silent = [one for one in self.all if one.error or one.answered_at <= moment]
        return dict(Counter(f"IPv{one.version} {'TCP' if one.stream else 'UDP'}" for one in silent))
