"""inotify(7) on one directory: wake up when a file in it changes. The standard library has no module for it."""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path
from types import TracebackType

from egress_router.errors import PlatformError

IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
#: A file counts when its writer has closed it or renamed it into place.
MASK = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF

_READ_SIZE = 64 * 1024


class DirectoryWatch:
    """An inotify descriptor for one directory."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if self._fd < 0:
            raise PlatformError(f"inotify: {os.strerror(ctypes.get_errno())}")
        if libc.inotify_add_watch(self._fd, os.fsencode(directory), MASK) < 0:
            reason = os.strerror(ctypes.get_errno())
            os.close(self._fd)
            raise PlatformError(f"{directory} cannot be watched: {reason}")

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
