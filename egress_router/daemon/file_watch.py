"""Notice that files changed: by inotify(7) where there is a directory, else by polling a file's identity."""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from egress_router.errors import PlatformError

# Notice that a file changed, by polling its identity.
#
# A mounted ConfigMap never changes in place: the kubelet writes a new directory and swaps the symbolic link
# ``..data``, so the watched path keeps its name and becomes another inode behind another real path. inotify on
# the file would watch the old inode for ever, and on the directory it differs between volume plugins (and FUSE
# and NFS send no events at all). One ``stat`` a second costs nothing and sees every case.


@dataclass(frozen=True, slots=True)
class Identity:
    """What distinguishes one version of a file from the next; ``real`` is None while the file is missing."""

    real: str | None
    device: int = 0
    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    changed_ns: int = 0


def identify(path: Path) -> Identity:
    """Return the identity of what ``path`` leads to now; a missing or unreadable path is a state, not an error."""
    try:
        real = os.path.realpath(path)
        seen = Path(real).stat()
    except OSError:
        return Identity(None)
    return Identity(real, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


class Watch:
    """Remembers the identity of some files. ``changed()`` is true once for every change it sees."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._seen = {path: identify(path) for path in paths}

    def changed(self) -> bool:
        """Look again; return whether any file differs from the last look."""
        now = {path: identify(path) for path in self._seen}
        different = now != self._seen
        self._seen = now
        return different


# inotify(7) on one directory: wake up when a file in it changes. The standard library has no module for it.

IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
#: A file counts when its writer has closed it or renamed it into place.
MASK = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF

_READ_SIZE = 64 * 1024


def _directory_identity(directory: Path) -> tuple[int, int] | None:
    try:
        seen = directory.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


class DirectoryWatch:
    """An inotify descriptor for one directory."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._identity = _directory_identity(directory)
        if self._fd < 0:
            raise PlatformError(f"inotify: {os.strerror(ctypes.get_errno())}")
        if libc.inotify_add_watch(self._fd, os.fsencode(directory), MASK) < 0:
            reason = os.strerror(ctypes.get_errno())
            os.close(self._fd)
            raise PlatformError(f"{directory} cannot be watched: {reason}")

    def is_of(self, directory: Path) -> bool:
        """Return whether what ``directory`` leads to now is what is watched."""
        return self._identity == _directory_identity(directory)

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

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
