"""Follow the objects of one resource: a watch with initial events, or a paged list and a watch, in a thread of its own.

What stands here about the API is in Kubernetes' documentation, "Kubernetes API Concepts" (efficient detection of
changes, streaming lists, retrieving large results sets in chunks). A connection always begins with all objects, never
with a resource version kept from an earlier one: after etcd was restored, or from a server that lags, such a watch
would be silent, and what happened up to that version lost. Objects of a new connection are gathered beside the present
ones and take their place at once, so that nothing is forgotten for a moment.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # documented by its use in JSONDecoder
from typing import Any, Generic, TypeVar

import msgspec

from egress_router.errors import EgressRouterError
from egress_router.kubernetes.client import ApiError, ApiUnavailable, Client, Stream, status_error
from egress_router.kubernetes.thread import Heartbeat, StartThread, pause

T = TypeVar("T")

#: A list is read in pages of so many objects.
PAGE = 500
#: A watch is asked to end after a time between these, so that not all clients come back at once; seconds.
WATCH_FOR = (300.0, 600.0)
#: The server sends a bookmark about once a minute; more silence than this is a dead connection; seconds.
SILENCE = 75.0
#: A thread that has read nothing and begun no new connection for so long is stuck; seconds.
STUCK = 4 * SILENCE
#: Seconds between attempts: the first, and the most. Each is drawn from the upper half of the span up to it.
RETRY, RETRY_MOST = 0.2, 30.0
#: The longest line of a watch that is read: etcd's limit is 1.5 MiB an object.
LINE = 16 << 20
#: Of a resource version: those of etcd have 64 bits.
MOST_DIGITS = 20
#: Events that come one by one, sooner than twice this after each other, are waited for and read together: to wake a
#: thread costs more than to read an event. The first one after a quiet moment is read at once; seconds.
TOGETHER = 0.02
#: A read that took longer has waited for the server; seconds.
WAITED = 0.0005
#: A connection that lasted less is counted as a failure; seconds.
SHORT = 5.0
#: A server that could not stream a list is asked again after so long; seconds.
ASK_AGAIN = 3600.0
INITIAL_END = "k8s.io/initial-events-end"
#: Types of the events that are about an object.
CHANGES = ("ADDED", "MODIFIED", "DELETED")
GONE, UNPROCESSABLE, BAD_REQUEST = 410, 422, 400
_METADATA = "application/json;as={kind};g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Resource:
    """What is followed: ``path`` of the list, selectors, and whether only the metadata is wanted."""

    path: str
    field_selector: str = ""
    label_selector: str = ""
    metadata_only: bool = False

    def query(self, **more: str) -> dict[str, str]:
        """Return the query parameters."""
        query = dict(more)
        if self.field_selector:
            query["fieldSelector"] = self.field_selector
        if self.label_selector:
            query["labelSelector"] = self.label_selector
        return query

    def accept(self, kind: str) -> str:
        """Return the Accept header for objects (PartialObjectMetadata) or lists (PartialObjectMetadataList)."""
        return _METADATA.format(kind=kind) if self.metadata_only else "application/json"


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """One object: its resource version, 0 where that is no number, and what was made of it."""

    version: int
    value: T


class StreamingRefused(Exception):
    """The server does not stream lists (the WatchList feature is off)."""


class Informer(Generic[T]):
    """Keeps what ``convert`` makes of every object, by uid: an object that is deleted takes away only what came with
    its own uid, whatever has its name by then. ``convert`` returns None for an object that is of no interest. What it
    and this class read of an object may be told by ``parts``, a TypedDict: nothing else of an event is made an object
    of Python, which costs a twentieth. An event that is not as ``parts`` says comes to ``convert`` whole.

    ``changed`` is called from the thread after every change, ``gone`` with the uid of every object that is not there
    any more, also of those that nothing was made of. ``stop`` ends the thread. An error that nobody foresaw is its
    owner's; started again it goes on with what it has.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        convert: Callable[[Mapping[str, Any]], T | None],
        changed: Callable[[], None],
        log: Callable[[str], None] = lambda _text: None,
        *,
        silence: float = SILENCE,
        watch_for: tuple[float, float] = WATCH_FOR,
        retry: tuple[float, float] = (RETRY, RETRY_MOST),
        gone: Callable[[str], None] = lambda _uid: None,
        parts: type[Any] | None = None,
    ) -> None:
        self.resource = resource
        self._client = client
        self._convert = convert
        self._changed = changed
        self._log = log
        self._silence = silence
        self._watch_for = watch_for
        self._retry = retry
        self._gone = gone
        self._events = None if parts is None else EventParts(parts)
        self._lock = threading.Lock()
        self._objects: dict[str, Stored[T]] = {}
        self._snapshot: dict[str, T] | None = {}
        #: None until somebody asks for them: they would be kept for nobody, for every object that ever was.
        self._changes: dict[str, T | None] | None = None
        #: Objects that nothing was made of: the present ones, and those of a connection that is still beginning.
        self._passed_over: set[str] = set()
        self._passing_over = self._passed_over
        self._stopping = threading.Event()
        self._stream: Stream | None = None
        self._no_streaming_until = 0.0
        self._list_next = False
        self._thread: threading.Thread | None = None
        #: Whether the objects were seen completely at least once.
        self.synced = False
        #: When the server was heard last (time.monotonic()), and since when it is not heard (0: it is).
        self.heard = time.monotonic()
        self.trouble = ""
        self.requests = 0
        self.events = 0

    def start(self, start: StartThread, name: str = "") -> None:
        """Begin, in a thread of this name (default: watch PATH)."""
        self._thread = start(name or f"watch {self.resource.path}", self._run, limit=STUCK)

    def stop(self) -> None:
        """End, without waiting for the thread."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.interrupt()

    def join(self, timeout: float = 5.0) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join(timeout)

    def objects(self) -> Mapping[str, T]:
        """Return what was made of all objects, by uid: the same mapping as before when nothing has changed."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = {uid: stored.value for uid, stored in self._objects.items()}
            return self._snapshot

    def take_changes(self) -> Mapping[str, T | None]:
        """Return what has changed since the last call, by uid; None: gone. The first time all objects. For one caller,
        who goes on calling: what has gone is remembered until then.
        """
        with self._lock:
            changes, self._changes = self._changes, {}
            return {uid: stored.value for uid, stored in self._objects.items()} if changes is None else changes

    def _note(self, uid: str, value: T | None) -> None:
        """Note a change of ``_objects``; the lock is held."""
        if self._changes is not None:
            self._changes[uid] = value
        self._snapshot = None

    def assume(self, raw: Mapping[str, Any]) -> None:
        """Take in an object that the server has just answered a write with, before the watch tells of it."""
        self._put(raw, self._objects)

    def forget(self, uid: str) -> None:
        """Leave out an object that was just deleted, before the watch tells of it."""
        with self._lock:
            if self._objects.pop(uid, None) is not None:
                self._note(uid, None)
        self._gone(uid)

    # The thread

    def _run(self, beat: Heartbeat) -> None:
        failures = 0
        while not self._stopping.is_set():
            wait = 0.0
            began = time.monotonic()
            try:
                self._connection(beat)
                # What ends at once, again and again, is no server's usual end of a watch.
                failures = failures + 1 if time.monotonic() - began < SHORT else 0
                wait = self._backoff(failures) if failures else 0.0
            except StreamingRefused:
                self._no_streaming_until = time.monotonic() + ASK_AGAIN
                failures = 0
            except (EgressRouterError, OSError, ValueError, RecursionError) as error:
                if self._stopping.is_set():
                    break
                failures = failures + 1 if time.monotonic() - began < SHORT else 1
                wait = self._after(error, failures)
            pause(self._stopping, wait, beat)

    def _after(self, error: Exception, failures: int) -> float:
        """Return how long to wait after an error, and tell of it once."""
        text = f"{self.resource.path}: {error or type(error).__name__}"
        if text != self.trouble:
            self.trouble = text
            self._log(text)
            self._changed()
        wait = self._backoff(failures)
        return max(wait, error.retry_after) if isinstance(error, ApiError) else wait

    def _backoff(self, failures: int) -> float:
        most = min(self._retry[0] * 2 ** min(failures - 1, 16), self._retry[1])
        return random.uniform(most / 2, most)  # noqa: S311 - spreads load, no secret

    def _connection(self, beat: Heartbeat) -> None:
        """Load all objects and follow them until the connection ends, which is no error when the server ends it."""
        stream_it = not self._list_next and time.monotonic() >= self._no_streaming_until
        self._list_next = False
        self._passing_over = set()
        if stream_it:
            try:
                self._watch({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, {}, beat)
            except ApiError as error:
                if error.code in (UNPROCESSABLE, BAD_REQUEST):
                    raise StreamingRefused from error
                raise
        else:
            fresh: dict[str, Stored[T]] = {}
            version = self._list(fresh, beat)
            self._swap(fresh)
            self._watch({"resourceVersion": version}, None, beat)

    def _list(self, fresh: dict[str, Stored[T]], beat: Heartbeat) -> str:
        """Read all pages; return the resource version of the whole."""
        token = ""
        while True:
            beat()
            query = self.resource.query(limit=str(PAGE))
            if token:
                query["continue"] = token
            self.requests += 1
            accept = self.resource.accept("PartialObjectMetadataList")
            stream = self._stream = self._client.stream(self.resource.path, query, self._silence, accept)
            try:
                text = stream.read().decode()
            finally:
                self._stream = None
                stream.close()
            metadata: Mapping[str, Any] = {}
            for name, value in list_members(text):
                if name == "items" and isinstance(value, dict):
                    self._put(value, fresh)
                elif name == "metadata" and isinstance(value, dict):
                    metadata = value
            self.heard = time.monotonic()
            version = metadata.get("resourceVersion")
            if not isinstance(version, str) or not version:
                raise ApiUnavailable(f"GET {self.resource.path}: the list has no resourceVersion")
            token = str(metadata.get("continue") or "")
            if not token:
                return version
            if self._stopping.is_set():
                raise ApiUnavailable("stopped")

    def _watch(self, more: Mapping[str, str], fresh: dict[str, Stored[T]] | None, beat: Heartbeat) -> None:
        """Follow a watch to its end; objects go into ``fresh`` until the server says that the initial ones are over."""
        seconds = random.uniform(*self._watch_for)  # noqa: S311 - spreads load, no secret
        query = self.resource.query(
            watch="true", allowWatchBookmarks="true", timeoutSeconds=str(max(1, int(seconds))), **more
        )
        self.requests += 1
        accept = self.resource.accept("PartialObjectMetadata")
        stream = self._stream = self._client.stream(self.resource.path, query, self._silence, accept)
        try:
            if self._stopping.is_set():
                return
            asked, woken = time.monotonic(), 0.0
            while line := stream.readline(LINE):
                came = time.monotonic()
                beat()
                if not line.endswith(b"\n"):
                    raise ApiUnavailable(f"{self.resource.path}: the watch was cut off in the middle of an event")
                if self._event(*self._taken_apart(line), fresh):
                    assert fresh is not None  # noqa: S101 - the initial events end only where there are some
                    self._swap(fresh)
                    fresh = None
                if came - asked > WAITED:
                    if fresh is None and came - woken < 2 * TOGETHER:
                        self._stopping.wait(TOGETHER)
                    woken = came
                asked = time.monotonic()
        except OSError as error:
            # A server that knows nothing of initial events may be silent instead: next time a list.
            self._list_next = fresh is not None
            raise ApiUnavailable(f"the watch broke: {error or type(error).__name__}") from error
        finally:
            self._stream = None
            stream.close()
        if fresh is not None:
            self._list_next = True
            raise ApiUnavailable("the watch ended before all objects had come")

    def _taken_apart(self, line: bytes) -> tuple[object, Mapping[str, Any]]:
        """Return type and object of an event, of the object only the parts that are wanted where that can be."""
        found = None if self._events is None else self._events.of(line)
        return whole_event(line) if found is None else found

    def _event(self, kind: object, raw: Mapping[str, Any], fresh: dict[str, Stored[T]] | None) -> bool:
        """Take in an event; return whether it ends the initial ones."""
        if kind == "ERROR":
            raise status_error(raw)
        self.heard = time.monotonic()
        self.events += 1
        if kind == "BOOKMARK":
            metadata = raw.get("metadata")
            annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
            return fresh is not None and isinstance(annotations, dict) and annotations.get(INITIAL_END) == "true"
        if kind not in CHANGES:
            raise ApiUnavailable(f"the watch sent an event of an unknown type: {kind!r}"[:200])
        objects = self._objects if fresh is None else fresh
        changed = self._remove(raw, objects) if kind == "DELETED" else self._put(raw, objects)
        if changed and fresh is None:
            self._changed()
        return False

    # What is kept

    def _put(self, raw: Mapping[str, Any], objects: dict[str, Stored[T]]) -> bool:
        """Keep what is made of an object; return whether that is something else than before.

        An older state of the object than the present one, which comes after a write of our own, is passed over.
        """
        uid, version = _identity(raw)
        before = objects.get(uid)
        if before is not None and version and version < before.version:
            return False
        value = self._convert(raw)
        with self._lock:
            if value is None:
                self._passing_over.add(uid)
                gone = objects.pop(uid, None) is not None
                if gone and objects is self._objects:
                    self._note(uid, None)
                return gone
            self._passing_over.discard(uid)
            if before is not None and before.value == value:
                value = before.value
                objects[uid] = Stored(version, value)
                return False
            objects[uid] = Stored(version, value)
            if objects is self._objects:
                self._note(uid, value)
        return True

    def _remove(self, raw: Mapping[str, Any], objects: dict[str, Stored[T]]) -> bool:
        uid, _ = _identity(raw)
        with self._lock:
            self._passing_over.discard(uid)
            gone = objects.pop(uid, None) is not None
            if gone and objects is self._objects:
                self._note(uid, None)
        self._gone(uid)
        return gone

    def _swap(self, fresh: dict[str, Stored[T]]) -> None:
        """Put the new objects in place of the present ones. Equal ones stay the same Python object, so compare fast."""
        with self._lock:
            old = self._objects
            left = (old.keys() | self._passed_over) - fresh.keys() - self._passing_over
            self._passed_over = self._passing_over
            for uid, stored in fresh.items():
                before = old.get(uid)
                if before is not None and before.value == stored.value:
                    fresh[uid] = Stored(stored.version, before.value)
            self._objects = fresh
            same = True
            for uid in old.keys() - fresh.keys():
                self._note(uid, None)
                same = False
            for uid, stored in fresh.items():
                if uid not in old or old[uid].value is not stored.value:
                    self._note(uid, stored.value)
                    same = False
            first, self.synced = not self.synced, True
        for uid in left:
            self._gone(uid)
        had_trouble, self.trouble = self.trouble, ""
        if had_trouble:
            self._log(f"{self.resource.path}: followed again")
        if first or not same or had_trouble:
            self._changed()


def _identity(raw: Mapping[str, Any]) -> tuple[str, int]:
    metadata = raw.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(uid, str) or not uid:
        raise ApiUnavailable("an object has no metadata.uid")
    version = metadata.get("resourceVersion")
    # Versions are to be compared as numbers since Kubernetes 1.35 (KEP-5504); they always were numbers.
    return uid, int(version) if isinstance(version, str) and len(version) <= MOST_DIGITS and version.isdecimal() else 0


def whole_event(line: bytes) -> tuple[object, dict[str, Any]]:
    """Return type and object of an event of a watch. Raises ApiUnavailable, ValueError, RecursionError."""
    event = json.loads(line)
    raw = event.get("object") if isinstance(event, dict) else None
    if not isinstance(raw, dict):
        raise ApiUnavailable("the watch sent something that is no event")
    return event.get("type"), raw


class EventParts:
    """Takes of the events about objects the parts that a TypedDict names, in whatever order they stand."""

    def __init__(self, parts: type[Any]) -> None:
        self._decoder: Any = msgspec.json.Decoder(msgspec.defstruct("Event", [("type", str), ("object", parts)]))

    def of(self, line: bytes) -> tuple[str, dict[str, Any]] | None:
        """Return type and parts of the object; None where the event is about something else, or is not as expected."""
        try:
            event = self._decoder.decode(line)
        except (ValueError, RecursionError):
            return None
        return (event.type, event.object) if event.type in CHANGES else None


_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"


def list_members(text: str) -> Iterator[tuple[str, object]]:
    """Yield the members of a JSON object, those of ``items`` one by one, so that a page is never there as a whole.

    Raises ValueError when the text is not JSON.
    """
    at = _skip(text, 0, "{")
    while _peek(text, at) != "}":
        at = _skip(text, at, '"')
        name, at = scanstring(text, at, True)
        at = _skip(text, at, ":")
        if name == "items" and _peek(text, at) == "[":
            at = _skip(text, at, "[")
            while _peek(text, at) != "]":
                item, at = _DECODER.raw_decode(text, _space(text, at))
                yield name, item
                if _peek(text, at) != "]":
                    at = _skip(text, at, ",")
                    if _peek(text, at) == "]":
                        raise JSONDecodeError("no item after the comma", text, at)
            at = _skip(text, at, "]")
        else:
            value, at = _DECODER.raw_decode(text, _space(text, at))
            yield name, value
        if _peek(text, at) == "}":
            break
        at = _skip(text, at, ",")
        if _peek(text, at) == "}":
            raise JSONDecodeError("no member after the comma", text, at)
    at = _skip(text, at, "}")
    if text[at:].strip(_SPACE):
        raise JSONDecodeError("more than one value", text, at)


def _space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _peek(text: str, at: int) -> str:
    at = _space(text, at)
    return text[at : at + 1]


def _skip(text: str, at: int, expected: str) -> int:
    at = _space(text, at)
    if text[at : at + 1] != expected:
        raise JSONDecodeError(f"no {expected}", text, at)
    return at + 1
