"""The connections of an egress IP, kept by its standby as well: a holder tells of them as they begin and end, over TCP.

A stream begins with all that are open, then come changes, gathered for FLUSH seconds. A message is four bytes of length
and what it says, signed as the agents' other messages are where they have keys: ``=`` and an address, packed: forget
what was told of it; ``+`` or ``-``, 4 or 6, and connections (see net.translations) that are open, or over. Whatever
goes wrong, the stream is closed, and the next one begins with everything.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from egress_router.config.values import Address
from egress_router.errors import EgressRouterError
from egress_router.net.signed_messages import Signatures
from egress_router.net.translations import TranslationEvents, open_translations, record_sizes, translated_of

#: Changes are gathered for so long; seconds.
FLUSH = 0.02
#: A peer that cannot be reached is tried again after so long; seconds.
RETRY = 0.5
#: What the kernel tells is compared with its list so often, longer where listing takes long: it tells nothing of what
#: began before it was listened to.
COMPARE_EVERY, _REST = 30.0, 50
#: Between two lists lies so many times what the last one took: a peer that ends each stream costs no more.
_PAUSE = 4
#: A stream that lasted so long was one: when it breaks, that is told again; seconds.
_STEADY = 10.0
#: Streams from one address of which nothing was believed yet; the oldest makes way.
_MOST_UNPROVEN = 4
#: So many connections are kept of all others: 60 to 70 MB.
MOST_KEPT = 1 << 19
#: A peer that lags so many bytes behind begins again.
MOST_QUEUED = 32 << 20
#: The longest message that is read, and so many connections go into one.
MOST_MESSAGE, _MOST_RECORDS = 1 << 18, 2000
#: A peer that acknowledges nothing for so long is gone; milliseconds.
_SILENCE = 2000
#: A standby that lags longer is not waited for by a drain; seconds.
LATE = 0.5
#: The thread wakes at least so often; seconds.
_WAKE = 1.0
_LENGTH = struct.Struct("!I")
_FORGET, _OPEN, _OVER = b"=", b"+", b"-"
_RECORD = dict(zip(b"46", record_sizes(), strict=True))
_TCP_USER_TIMEOUT = 18


@dataclass(slots=True)
class Figures:
    """What has happened since the start. ``kept``: connections that others have told of; ``told``: those of this node
    that standbys have; ``lag``: for how many seconds the oldest change is not acknowledged, by the peer's address;
    ``refused``: messages and machines that were not believed; ``again``: streams that had to begin again; ``complete``:
    standbys were told of all that was open before they were followed.
    """

    kept: int = 0
    told: int = 0
    lag: dict[str, float] = field(default_factory=dict)
    connected: dict[str, bool] = field(default_factory=dict)
    sent_bytes: int = 0
    changes: int = 0
    refused: int = 0
    again: int = 0
    error: str = ""
    complete: bool = False

    def in_step(self, peer: str) -> bool:
        """Return whether a standby has what it is to have, but for the last moment."""
        in_time = self.lag.get(peer, LATE) < LATE
        return self.complete and not self.error and self.connected.get(peer, False) and in_time


class Replication:
    """Runs in a thread of its own; ``follow`` says what is sent to whom and what is accepted from whom."""

    def __init__(
        self,
        host_ip: str,
        port: int,
        signatures: Signatures | None,
        log: Callable[[str], None],
        events: Callable[[], TranslationEvents] = TranslationEvents,
        listed: Callable[[Collection[Address]], list[bytes]] = open_translations,
    ) -> None:
        """``signatures`` are its own: two channels with one would overtake each other. Opens nothing yet."""
        self._host_ip = host_ip
        self._port = port
        self._signatures = signatures
        self._log = log
        self._make_events = events
        self._listed = listed
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        #: By packed egress IP: the address of its standby; that of its holder, of those that this node stands by for;
        #: those whose connections are kept although nobody is to tell of them any more.
        self._to: dict[bytes, str] = {}
        self._from: dict[bytes, str] = {}
        self._keep: frozenset[bytes] = frozenset()
        self._kept: dict[bytes, set[bytes]] = {}
        self._events: TranslationEvents | None = None
        self._server: socket.socket | None = None
        self._streams: dict[str, _Stream] = {}
        self._peers: dict[int, _Peer] = {}
        self._compare_at = 0.0
        self._compare_from = 0.0
        self._compare = False
        #: How often ``follow`` has changed something, and how much of it the thread has taken in.
        self._followed = self._seen = 0
        self.figures = Figures()

    @property
    def idle(self) -> bool:
        """Whether nothing is to be sent or accepted."""
        with self._lock:
            return not (self._to or self._from or self._keep)

    def follow(self, to: Mapping[str, str], come_from: Mapping[str, str], keep: Collection[str] = ()) -> None:
        """Send the connections of these egress IPs to these addresses of nodes, accept those of others from theirs, and
        keep what is there of further ones. What is kept of any other is dropped.
        """
        new_to = {ip_address(ip).packed: peer for ip, peer in to.items()}
        new_from = {ip_address(ip).packed: peer for ip, peer in come_from.items()}
        new_keep = frozenset(ip_address(ip).packed for ip in keep)
        with self._lock:
            if (new_to, new_from, new_keep) == (self._to, self._from, self._keep):
                return
            self._to, self._from, self._keep = new_to, new_from, new_keep
            self._followed += 1
            self.figures.complete = False
            for ip in self._kept.keys() - new_from.keys() - new_keep:
                del self._kept[ip]
        self._ring()

    def kept(self, ip: str) -> frozenset[bytes]:
        """Return the connections that are kept of an egress IP."""
        with self._lock:
            return frozenset(self._kept.get(ip_address(ip).packed, ()))

    def stop(self) -> None:
        """End ``run``."""
        self._stopping = True
        self._ring()

    def _ring(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def run(self, beat: Callable[[], None] = lambda: None) -> None:
        """Send and take in until ``stop``, in a thread; call ``beat`` once a second or oftener."""
        try:
            while not self._stopping:
                beat()
                self._turn()
        finally:
            self._close()

    def _close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        for peer in self._peers.values():
            peer.socket.close()
        for one in (self._events, self._server):
            if one is not None:
                one.close()
        self._streams, self._peers, self._events, self._server = {}, {}, None, None

    def _turn(self) -> None:
        with self._lock:
            to, come_from, self._seen = dict(self._to), dict(self._from), self._followed
        try:
            self._open_and_close(to, come_from, time.monotonic())
            ready = self._wait_for_all()
            if self._events is not None:
                self._take_events(to)
                if self._is_to_compare(time.monotonic()):
                    self._compare_with_kernel(to)
        except (EgressRouterError, OSError) as error:
            self._failed(error)
            self._wait([], [], _WAKE)
            return
        self.figures.error = ""
        if self._server is not None and self._server.fileno() in ready:
            self._accept(come_from)
        for number in ready & self._peers.keys():
            if number in self._peers:
                self._hear(number)
        self._send_all()
        self._note_figures()

    def _wait_for_all(self) -> set[int]:
        reading = [self._server, self._events, *(peer.socket for peer in self._peers.values())]
        writing = [stream.socket for stream in self._streams.values() if stream.wants_to_write]
        due = min([_WAKE, *(stream.due for stream in self._streams.values())])
        if self._compare and self._reaches_any():
            due = min(due, max(0.0, self._compare_from - time.monotonic()))
        return self._wait([one for one in reading if one is not None], [one for one in writing if one], due)

    def _wait(
        self, reading: list[socket.socket | TranslationEvents], writing: list[socket.socket], due: float
    ) -> set[int]:
        poll = select.poll()
        for one in (self._wake, *reading):
            poll.register(one, select.POLLIN)
        for stream in writing:
            poll.register(stream, select.POLLOUT)
        ready = {number for number, _ in poll.poll(due * 1000)}
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return ready

    def _failed(self, error: Exception) -> None:
        text = str(error)
        if text != self.figures.error:
            self._log(f"connections are not kept by standbys: {text}")
        self.figures.error = text
        self.figures.complete = False
        # What is not heard of reaches nobody, whatever became of the streams.
        self.figures.connected = dict.fromkeys(self._streams.keys() | set(self._to.values()), False)
        if self._events is not None:
            # Whatever it was about: another one begins with everything.
            self._events.close()
            self._events = None

    def _open_and_close(self, to: Mapping[bytes, str], come_from: Mapping[bytes, str], now: float) -> None:
        if to and self._events is None:
            self._events = self._make_events()
            self._compare = True
        elif not to and self._events is not None:
            self._events.close()
            self._events = None
        if come_from and self._server is None:
            self._server = self._listen()
        elif not come_from and self._server is not None:
            self._server.close()
            self._server = None
        wanted: dict[str, set[bytes]] = {}
        for ip, peer in to.items():
            wanted.setdefault(peer, set()).add(ip)
        for peer in self._streams.keys() - wanted.keys():
            self._streams.pop(peer).close()
        for peer, ips in wanted.items():
            stream = self._streams.setdefault(peer, _Stream(self._host_ip, peer, self._port))
            if stream.follow(ips, now):
                # New, or of other addresses: it begins with what is open.
                self._compare = True

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host_ip else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((self._host_ip, self._port))
            server.listen()
        except OSError:
            server.close()
            raise
        return server

    # What is sent

    def _take_events(self, to: Mapping[bytes, str]) -> None:
        assert self._events is not None  # noqa: S101 - the caller has looked
        for record, is_open in self._events.read():
            peer = to.get(translated_of(record))
            if peer is not None:
                self.figures.changes += 1
                self._streams[peer].change(record, is_open=is_open)
        if self._events.lost:
            self._events.lost = False
            self._compare = True

    def _reaches_any(self) -> bool:
        return any(stream.connected for stream in self._streams.values())

    def _is_to_compare(self, now: float) -> bool:
        """Listing costs as much as there are connections: only for those that can be told of them, with pauses."""
        wanted = (self._compare and now >= self._compare_from) or now >= self._compare_at
        return wanted and self._reaches_any()

    def _compare_with_kernel(self, to: Mapping[bytes, str]) -> None:
        """Bring what standbys have to what the kernel lists. What begins or ends meanwhile is told of by events, which
        are taken in after it.
        """
        self._compare = False
        started = time.monotonic()
        by_peer: dict[str, set[bytes]] = {peer: set() for peer in self._streams}
        for record in self._listed([ip_address(ip) for ip in to]):
            peer = to.get(translated_of(record))
            if peer is not None:
                by_peer[peer].add(record)
        for peer, records in by_peer.items():
            self._streams[peer].bring_to(records)
        took = time.monotonic() - started
        ended = time.monotonic()
        self._compare_at, self._compare_from = ended + max(COMPARE_EVERY, _REST * took), ended + _PAUSE * took

    def _send_all(self) -> None:
        now = time.monotonic()
        for stream in self._streams.values():
            reached = stream.connected
            try:
                self.figures.sent_bytes += stream.send(self._sealed, now)
            except OSError as error:
                self.figures.again += stream.connected
                if stream.fail(now):
                    reason = error.strerror or error
                    self._log(f"the standby {stream.peer} is not told of connections: {reason}; tried again")
            else:
                # It begins with what is open now; nothing was noted before.
                self._compare |= stream.connected and not reached

    def _sealed(self, body: bytes, to: str) -> bytes:
        return body if self._signatures is None else self._signatures.seal(body, self._host_ip, to)

    # What is taken in

    def _accept(self, come_from: Mapping[bytes, str]) -> None:
        assert self._server is not None  # noqa: S101 - the caller has looked
        try:
            accepted, address = self._server.accept()
        except OSError:
            return
        name = str(ip_address(str(address[0]).partition("%")[0]))
        if name not in come_from.values():
            # Nobody that this node stands by for, as far as it knows yet: it will come again.
            self.figures.refused += 1
            accepted.close()
            return
        accepted.setblocking(False)
        unproven = [number for number, peer in self._peers.items() if peer.name == name and not peer.believed]
        for number in unproven[: 1 - _MOST_UNPROVEN]:
            self._peers.pop(number).socket.close()
        self._peers[accepted.fileno()] = _Peer(name, accepted)

    def _hear(self, number: int) -> None:
        peer = self._peers[number]
        try:
            data = peer.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        peer.buffer += data
        if not data or not self._take_messages(peer):
            # What it has told stays: its holder may be dead.
            peer.socket.close()
            del self._peers[number]

    def _take_messages(self, peer: _Peer) -> bool:
        """Take in the whole messages that have come; return False when the stream is not to be believed any more."""
        at, buffer = 0, peer.buffer
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > MOST_MESSAGE:
                self.figures.refused += 1
                return False
            if len(buffer) - at < _LENGTH.size + length:
                break
            body: bytes | None = bytes(buffer[at + _LENGTH.size : at + _LENGTH.size + length])
            at += _LENGTH.size + length
            if self._signatures is not None:
                opened = self._signatures.open(body or b"", peer.name, self._host_ip)
                body = None if opened is None else opened.body
            if body is None or not self._take(peer.name, body):
                self.figures.refused += 1
                return False
            if not peer.believed:
                self._believe(peer)
        del buffer[:at]
        return True

    def _believe(self, new: _Peer) -> None:
        """End the former streams of a node: only for one that has said what is to be believed, since any process there
        may connect.
        """
        new.believed = True
        of_node = [number for number, peer in self._peers.items() if peer.name == new.name]
        for number in of_node[: of_node.index(new.socket.fileno())]:
            self._peers.pop(number).socket.close()

    def _take(self, name: str, body: bytes) -> bool:
        """Take in a message of a node; return False for what is none, or about an address that it does not hold."""
        kind = body[:1]
        with self._lock:
            if kind == _FORGET:
                if self._from.get(body[1:]) != name:
                    return body[1:] in self._keep
                self._kept[body[1:]] = set()
                return True
            size = _RECORD.get(body[1]) if len(body) > 1 else None
            if kind not in (_OPEN, _OVER) or size is None or (len(body) - 2) % size:
                return False
            room = MOST_KEPT - sum(map(len, self._kept.values()))
            for at in range(2, len(body), size):
                record = body[at : at + size]
                ip = translated_of(record)
                if self._from.get(ip) != name:
                    # Before this node has heard that it stands by, or after it has heard that it holds: the stream
                    # ends, so that the next one tells all.
                    return False
                kept = self._kept.setdefault(ip, set())
                before = len(kept)
                if kind == _OVER:
                    kept.discard(record)
                elif room > 0:
                    kept.add(record)
                    room -= len(kept) - before
        return True

    def _note_figures(self) -> None:
        now = time.monotonic()
        with self._lock:
            self.figures.kept = sum(map(len, self._kept.values()))
            # What the thread has not taken in yet was told to nobody.
            self.figures.complete = not self._compare and self._seen == self._followed
        streams = list(self._streams.values())
        self.figures.told = sum(stream.told for stream in streams)
        self.figures.lag = {stream.peer: stream.lag(now) for stream in streams}
        self.figures.connected = {stream.peer: stream.connected for stream in streams}


@dataclass(slots=True)
class _Peer:
    """A node that tells of its connections."""

    name: str
    socket: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    believed: bool = False


class _Stream:
    """What one standby is told."""

    def __init__(self, host_ip: str, peer: str, port: int) -> None:
        self.peer = peer
        self._host_ip = host_ip
        self._port = port
        self.socket: socket.socket | None = None
        self.connected = False
        self._retry_at = 0.0
        self._since = 0.0
        #: Whether it was told that there is no stream.
        self._is_known_to_fail = False
        #: What the standby has, by egress IP, once it was told.
        self._told: dict[bytes, set[bytes]] = {}
        self._fresh: set[bytes] = set()
        #: What the standby has is to be forgotten at once with being told anew, and that has to be listed first.
        self._awaits_list = True
        self.pending: dict[bytes, bool] = {}
        self._out = bytearray()
        self._queued = 0
        #: When how many bytes had been queued.
        self._marks: deque[tuple[float, int]] = deque()

    @property
    def told(self) -> int:
        return sum(map(len, self._told.values()))

    @property
    def wants_to_write(self) -> bool:
        return self.socket is not None and (bool(self._out) or not self.connected)

    @property
    def due(self) -> float:
        """In how many seconds there is something to do, whatever comes."""
        if self.socket is None:
            return RETRY
        return FLUSH if self.pending and self.connected else _WAKE

    def follow(self, ips: set[bytes], now: float) -> bool:
        """Tell of exactly these addresses; connect if it is time to. Return whether what is open is to be listed."""
        for ip in self._told.keys() - ips:
            del self._told[ip]
        new = ips - self._told.keys()
        for ip in new:
            self._told[ip] = set()
            self._fresh.add(ip)
            self._awaits_list = True
        self._fresh &= ips
        if self.socket is None and now >= self._retry_at:
            self._connect(now)
        return bool(new)

    def _connect(self, now: float) -> None:
        family = socket.AF_INET6 if ":" in self.peer else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            made.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, _SILENCE)
            made.bind((self._host_ip, 0))
            made.connect((self.peer, self._port))
        except BlockingIOError:
            pass
        except OSError:
            made.close()
            self._retry_at = now + RETRY
            return
        self.socket = made

    def change(self, record: bytes, *, is_open: bool) -> None:
        """Note a change; a stream that begins later tells of what is open then."""
        if self.connected:
            self.pending[record] = is_open

    def bring_to(self, records: set[bytes]) -> None:
        """Note what differs from what the standby has; nothing as long as it cannot be told."""
        if not self.connected:
            return
        self._awaits_list = False
        told: set[bytes] = set().union(*self._told.values())
        for record in told - records:
            self.pending[record] = False
        for record in records - told:
            self.pending[record] = True

    def send(self, sealed: Callable[[bytes, str], bytes], now: float) -> int:
        """Send what can be sent; return how many bytes were. Raises OSError when the stream is broken."""
        if self.socket is None:
            # Kept is what a new stream has to tell: nothing is queued meanwhile.
            return 0
        if not self.connected:
            if not _is_ready(self.socket, select.POLLOUT):
                return 0
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self.connected, self._since = True, now
        elif _is_ready(self.socket, select.POLLIN):
            # A standby says nothing; it has closed.
            raise ConnectionResetError(0, "closed by the standby")
        if not self._awaits_list:
            self._queue(sealed, now)
        if len(self._out) > MOST_QUEUED:
            raise OSError(0, "it lags too far behind")
        sent = 0
        while self._out:
            try:
                done = self.socket.send(memoryview(self._out)[: 1 << 16])
            except BlockingIOError:
                break
            del self._out[:done]
            sent += done
        return sent

    def _queue(self, sealed: Callable[[bytes, str], bytes], now: float) -> None:
        before = len(self._out)
        for ip in self._fresh:
            self._put(sealed(_FORGET + ip, self.peer))
        self._fresh.clear()
        pending, self.pending = self.pending, {}
        changed: dict[tuple[bytes, int], list[bytes]] = {}
        for record, is_open in pending.items():
            told = self._told.get(translated_of(record))
            if told is None or is_open == (record in told):
                continue
            (told.add if is_open else told.discard)(record)
            changed.setdefault((_OPEN if is_open else _OVER, len(record)), []).append(record)
        for (kind, size), records in sorted(changed.items()):
            head = kind + (b"4" if size == _RECORD[ord("4")] else b"6")
            for start in range(0, len(records), _MOST_RECORDS):
                self._put(sealed(head + b"".join(records[start : start + _MOST_RECORDS]), self.peer))
        if len(self._out) > before:
            self._queued += len(self._out) - before
            self._marks.append((now, self._queued))

    def _put(self, message: bytes) -> None:
        self._out += _LENGTH.pack(len(message)) + message

    def lag(self, now: float) -> float:
        """Return for how many seconds the oldest change is not acknowledged."""
        if self.socket is None or not self.connected:
            return 0.0
        acknowledged = self._queued - len(self._out) - _unacknowledged(self.socket)
        while self._marks and self._marks[0][1] <= acknowledged:
            self._marks.popleft()
        return now - self._marks[0][0] if self._marks else 0.0

    def fail(self, now: float) -> bool:
        """Begin again, in a moment. Return whether that is news: not when the last stream was too short to be one."""
        is_news = not self._is_known_to_fail or (self.connected and now - self._since >= _STEADY)
        self._is_known_to_fail = True
        ips = set(self._told)
        self.close()
        self._told = {ip: set() for ip in ips}
        self._fresh = ips
        self._retry_at = now + RETRY
        return is_news

    def close(self) -> None:
        """Close the stream and forget what was told."""
        if self.socket is not None:
            self.socket.close()
        self.socket, self.connected, self._awaits_list = None, False, True
        self._told, self._fresh, self.pending = {}, set(), {}
        self._out.clear()
        self._marks.clear()
        self._queued = 0


def _is_ready(one: socket.socket, events: int) -> bool:
    """Tell whether any of these is so, or the stream is broken; by poll, whose descriptors may be above 1,023."""
    poll = select.poll()
    poll.register(one, events)
    return bool(poll.poll(0))


def _unacknowledged(of: socket.socket) -> int:
    """Return how many bytes are not acknowledged; see tcp(7), SIOCOUTQ."""
    count = array.array("i", [0])
    fcntl.ioctl(of, termios.TIOCOUTQ, count)
    return count[0]
