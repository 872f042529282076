"""Notice that a file changed, by polling its identity.

A mounted ConfigMap never changes in place: the kubelet writes a new directory and swaps the symbolic link
``..data``, so the watched path keeps its name and becomes another inode behind another real path. inotify on
the file would watch the old inode for ever, and on the directory it differs between volume plugins (and FUSE
and NFS send no events at all). One ``stat`` a second costs nothing and sees every case.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


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
