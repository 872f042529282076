"""The lock of iptables(8)."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STEP_SECONDS = 0.002


@contextmanager
def xtables_lock(patience: float | None = None) -> Iterator[None]:
    """Hold what iptables(8) holds from its reading to its commit: ours in between would make it fail with EAGAIN.

    Only those in the same mount namespace can share it; without a place to write it there is nobody to share it with.
    With ``patience`` wait so many seconds for it and then go on without.
    """
    try:
        lock = os.open(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"), os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        if patience is None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        else:
            _wait(lock, time.monotonic() + patience)
        yield
    finally:
        os.close(lock)


def _wait(lock: int, end: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return
            time.sleep(_STEP_SECONDS)
        else:
            return
