"""The folder that keeps what was built, by version; one builder at a time, and never half a result."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


def folder() -> Path:
    """Return the cache folder: ``egress-router/kubernetes`` under XDG_CACHE_HOME or ~/.cache (XDG Base Directory)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "egress-router" / "kubernetes"


@contextmanager
def locked(cache: Path, say: Say) -> Iterator[None]:
    """Hold the cache's only lock; it is given back also when this process is killed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build in {cache}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def unfinished(cache: Path) -> Iterator[Path]:
    """Return an empty folder to build in, under the lock; it and what killed builders left are removed."""
    for left in cache.glob("unfinished-*"):
        shutil.rmtree(left, ignore_errors=True)
    path = cache / f"unfinished-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish(built: Path, target: Path) -> None:
    """Give a finished folder its name, at once; what stood there goes."""
    if target.exists():
        shutil.rmtree(target)
    built.rename(target)
