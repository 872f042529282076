"""``init`` and a list that is refused: wait until its file changes, instead of ending and being started again.

An init container that ends is started again by the kubelet after 10 s, then 20 s, and at last every 5 minutes, however
soon the list is mended. One that waits is there when it changes; but `kubectl describe pod` has the message of a
container only once that has ended. So the first of a pod ends soon, and those after it, while the end of their
predecessor is shown ("Last State"), wait.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.mounts import own_mounts
from egress_router.daemon.file_watch import Watch
from egress_router.daemon.log import LOGGER
from egress_router.errors import ConfigurationError, Problem
from egress_router.redirect.config import list_wait

#: Seconds that the first of a pod waits at most.
FIRST_WAIT = 10.0
LOOK_SECONDS = 0.25
#: All containers of a pod see the same one, from the pod's start to its end.
SHARED = Path("/dev/shm")  # noqa: S108 - that a file is there is all that is read
#: Tells network namespaces apart, also from those that are no more (Linux 5.14).
_SO_NETNS_COOKIE = 71

T = TypeVar("T")


def wait_until_mended(inputs: Inputs, read: Callable[[], T], refused: ConfigurationError, mark: Path | None) -> T:
    """Return what ``read`` does once the files that ``refused`` is about are such that it does.

    Raises ``refused`` at once when they are not all that is wrong or cannot change (subPath: the next container has
    the new one), and what ``read`` raises at last when they are not
    mended within EGRESS_LIST_WAIT seconds; where ``mark`` (pod_mark) is not there yet, within FIRST_WAIT at most.
    """
    files = files_to_mend(inputs, refused.problems)
    most = list_wait(inputs, Problems())
    if not files or not most or own_mounts(map(str, files)):
        raise refused
    # Without a mark nobody knows whether the pod has shown the message.
    again = mark is not None and mark.exists()
    end = time.monotonic() + (most if again else min(most, FIRST_WAIT))
    watch = Watch(files)
    try:
        while True:
            try:
                # The first time for what has changed since it was read and before it was watched.
                found = read()
            except ConfigurationError as error:
                if not files_to_mend(inputs, error.problems) or not _changes(watch, end, error, files):
                    raise
            else:
                _forget(mark)
                return found
    except ConfigurationError:
        _note(mark)
        raise


def files_to_mend(inputs: Inputs, problems: Sequence[Problem]) -> list[Path]:
    """Return the files that all of ``problems`` stand in; none when something else is wrong, too, or alone: a pod's
    variables never change.
    """
    found = []
    for problem in problems:
        name = problem.variable
        path = inputs.value(name) if name.endswith("_FILE") else None
        if path is None or inputs.value(name.removesuffix("_FILE")) is not None:
            return []
        found.append(Path(path))
    return list(dict.fromkeys(found))


def _changes(watch: Watch, end: float, error: ConfigurationError, files: Sequence[Path]) -> bool:
    """Wait until a file has changed and has stayed the same for one look since, for a half-written one changes again;
    return whether that was before ``end``.
    """
    left = end - time.monotonic()
    if left <= 0:
        return False
    LOGGER.error("%s\n  Waiting for at most %.0f s until %s changes", error, left, " or ".join(map(str, files)))
    different = False
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(LOOK_SECONDS, left))
        changed = watch.changed()
        if different and not changed:
            return True
        different |= changed
    return different


def pod_mark(shared: Path = SHARED) -> Path | None:
    """Return what is there once a list was refused in this pod, whose network namespace is like no other since the
    machine started; None where the kernel does not tell them apart.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None
    return shared / f"egress-router-refused-{cookie.hex()}"


def _note(mark: Path | None) -> None:
    """Leave word for those that come after us in this pod; where that is not possible they wait as the first."""
    if mark is not None:
        with suppress(OSError):
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _forget(mark: Path | None) -> None:
    if mark is not None:
        with suppress(OSError):
            mark.unlink()
