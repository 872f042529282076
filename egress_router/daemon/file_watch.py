"""Notice that files changed: their identity is looked at again and again. For the files of a directory, inotify(7)
tells when to look at once.

A mounted ConfigMap never changes in place: the kubelet writes a new directory and swaps the symbolic link ``..data``,
so the watched path keeps its name and becomes another inode behind another real path. inotify on the file would watch
the old inode for ever, and on the directory it differs between volume plugins (and FUSE and NFS send no events at all).
One ``stat`` a second costs nothing and sees every case.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.errors import PlatformError
from egress_router.records import dataclass

log = logging.getLogger(__name__)

IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
#: A file counts when its writer has closed it or renamed it into place.
MASK = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF

_READ_SIZE = 64 * 1024
#: A look that takes longer is told in the log; seconds.
LATE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What distinguishes one version of a file from the next; ``real`` is the path without links, None while there is
    nothing that can be looked at.
    """

    real: str | None
    device: int = 0
    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    changed_ns: int = 0


def _identity(real: str, seen: os.stat_result) -> Identity:
    return Identity(real, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def identify(path: Path) -> Identity:
    """Return the identity of what ``path`` leads to now; a missing or unreadable path is a state, not an error."""
    try:
        real = os.path.realpath(path)
        return _identity(real, Path(real).stat())
    except OSError:
        return Identity(None)


def identify_all(directory: Path, wanted: Callable[[str], bool]) -> dict[str, Identity]:
    """Return the identities of a directory's files with ``wanted`` names, sorted by name; links are followed, and
    ``real`` is the name. A link that leads nowhere is there. Raises OSError when the directory cannot be read.
    """
    found: dict[str, Identity] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if not wanted(entry.name):
                continue
            try:
                found[entry.name] = _identity(entry.name, entry.stat())
            except OSError:
                # Gone since, or a link that leads nowhere: what that would say is unknown.
                if os.path.lexists(entry.path):
                    found[entry.name] = Identity(None)
    return dict(sorted(found.items()))


class Watch:
    """Remembers the identity of some files. ``changed()`` is true once for every change it sees; any thread may ask."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._seen = {path: identify(path) for path in paths}
        self._lock = threading.Lock()
        #: How many looks have found a change.
        self.changes = 0
        self._leaving = threading.Event()
        # Of ``follow``: when the last look ended, and whether it was told that the next one does not.
        self._looked = 0.0
        self._told = False

    def changed(self) -> bool:
        """Look again; return whether any file differs from the last look. Waits as long as the file system does."""
        with self._lock:
            now = {path: identify(path) for path in self._seen}
            different = now != self._seen
            self._seen = now
            self.changes += different
            return different

    def follow(self, threads: Threads, loop: Loop, every: float, seen: Callable[[bool], object]) -> None:
        """Look every so many seconds in a thread, and have ``loop`` call ``seen`` with what ``changed`` returned.

        A file system that does not answer (NFS, FUSE) stops the looks and nothing else: what was read stays in force.
        The log tells, and the age of the thread's heartbeat; it is no reason to end a process that does its work.
        """
        if not self._seen:
            return
        self._looked = loop.now()

        def look(beat: Callable[[], None]) -> None:
            while not self._leaving.wait(every):
                beat()
                different = self.changed()
                self._looked = loop.now()
                loop.post(lambda different=different: seen(different))  # type: ignore[misc]

        threads.start("files", look, limit=float("inf"))
        loop.every(LATE_SECONDS / 3, lambda: self._tell_late(loop.now()))

    def _tell_late(self, now: float) -> None:
        late = now - self._looked > LATE_SECONDS
        if late != self._told:
            self._told = late
            names = ", ".join(map(str, self._seen))
            if late:
                log.error("%s: its file system does not answer; changes are not seen, all stays as it is", names)
            else:
                log.info("%s: its file system answers again", names)

    def close(self) -> None:
        """Look no more."""
        self._leaving.set()


class DirectoryNotices:
    """An inotify descriptor of a directory, to look at its files sooner than in time. The standard library has no
    module for it.
    """

    def __init__(self, directory: Path) -> None:
        """Raises PlatformError."""
        self._directory = directory
        self._fd, self._identity = self._watch()

    def _watch(self) -> tuple[int, tuple[int, int] | None]:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if descriptor < 0:
            raise PlatformError(f"inotify: {os.strerror(ctypes.get_errno())}")
        identity = self._which()
        if libc.inotify_add_watch(descriptor, os.fsencode(self._directory), MASK) < 0:
            reason = os.strerror(ctypes.get_errno())
            os.close(descriptor)
            raise PlatformError(f"{self._directory} cannot be watched: {reason}")
        return descriptor, identity

    def _which(self) -> tuple[int, int] | None:
        seen = identify(self._directory)
        return None if seen.real is None else (seen.device, seen.inode)

    def follow(self) -> None:
        """Go on with the directory that is at the path now, if it is another one. Raises PlatformError."""
        if self._which() != self._identity:
            fresh, identity = self._watch()
            os.close(self._fd)
            self._fd, self._identity = fresh, identity

    def fileno(self) -> int:
        """Return the descriptor, readable when something changed."""
        return self._fd

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for a change and take in all that are there; False when none came."""
        if not select.select([self._fd], [], [], max(0.0, timeout))[0]:
            return False
        try:
            while os.read(self._fd, _READ_SIZE):
                pass
        except BlockingIOError:
            return True
        return True

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._fd)
