"""Reading files that somebody else may have put there: regular ones, never more than asked for, never waiting."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_OF_A_KERNEL_FILE = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def read_regular(path: Path | str, most: int) -> bytes:
    """Return the first ``most`` bytes of a regular file. Raises OSError, also for what is none: whoever opens a pipe
    waits for somebody who writes into it (fifo(7)), and a device may have no end; ValueError for a null byte in a path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, path)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def read_kernel_text(path: str) -> str:
    """Return what a file of the kernel (proc(5)) says. Raises OSError.

    Without pathlib, which every pod would wait for.
    """
    return read_regular(path, _MOST_OF_A_KERNEL_FILE).decode("ascii", "replace")


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Return what tells one version of a file from the next, also where a link leads to another one, as in a mounted
    volume. Raises OSError.
    """
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def refuse_to_replace(path: Path) -> None:
    """Raise OSError when there is something at ``path`` that a new file must not take the place of: a device, say."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    _refuse_irregular(mode, path)


def _refuse_irregular(mode: int, path: Path | str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
