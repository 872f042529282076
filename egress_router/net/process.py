"""Command-line tools: run, and what they said is kept.

They read from and write to files in memory: nft writes word by word, and a reader of a pipe would be woken for each.
Neither subprocess nor pipes are needed for that, so nobody waits for their import.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Sequence

from egress_router.errors import PlatformError, ToolFailed, ToolHangs
from egress_router.net.oserror import from_os

#: Loading tens of thousands of rules takes seconds; anything longer hangs.
TIMEOUT_SECONDS = 60
#: One that was killed ends at once, unless the kernel keeps it: then it ends when that lets it go.
_KILLED_SECONDS = 1.0
#: Python ignores them, which a program would inherit (signal(7)).
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)

_limit = float(TIMEOUT_SECONDS)
#: What is being waited for, by process number: the command, and since when. Other threads look.
_running: dict[int, tuple[str, float]] = {}


def limit_tools(seconds: float) -> None:
    """Have tools that this process runs from now on end within so many seconds instead of TIMEOUT_SECONDS."""
    global _limit  # noqa: PLW0603 - a property of the process: who calls a tool deep down has no say in it
    _limit = seconds


def slow_tool(seconds: float) -> str:
    """Return the command that this process has been waiting for longer than so many seconds, empty when there is none.
    May be called from any thread.
    """
    now = time.monotonic()
    # One that nobody waits for any more is killed by then, or was never waited for.
    oldest = now - _limit - 2 * _KILLED_SECONDS
    found = [(since, command) for command, since in list(_running.values()) if oldest < since < now - seconds]
    return min(found)[1] if found else ""


def run_tool(command: Sequence[str], text: str | None = None, started: Callable[[int], None] | None = None) -> str:
    """Run ``command`` with ``text`` as its input and return its output; ``started`` is told its process number.

    Raises PlatformError when the tool is not installed, ToolFailed with its stderr when it fails, ToolHangs when it
    does not end in time.
    """
    return start_tool(command, text, started)()


def start_tool(
    command: Sequence[str], text: str | None = None, started: Callable[[int], None] | None = None
) -> Callable[[], str]:
    """Start what ``run_tool`` runs; call the result to wait for the output. Raises, there or here, as run_tool does."""
    files: list[int] = []
    try:
        files += map(os.memfd_create, ("input", "output", "errors"))
        _write(files[0], (text or "").encode())
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
        # A variable without a name (execve(2) takes one) is refused by Python.
        environment = {name: value for name, value in os.environ.items() if name}
        pid = os.posix_spawnp(command[0], [*command], environment, file_actions=actions, setsigdef=_IGNORED)
    except OSError as error:
        _close(files)
        if isinstance(error, FileNotFoundError):
            raise PlatformError(f"`{command[0]}` is not installed") from error
        if isinstance(error, PermissionError):
            raise PlatformError(f"`{command[0]}` may not be executed: {error.strerror}") from error
        raise from_os(error, f"start `{command[0]}`", "") from error
    if started is not None:
        started(pid)
    limit = _limit
    _running[pid] = (" ".join(command), time.monotonic())

    def finish() -> str:
        try:
            status = _wait(pid, limit)
            if status is None:
                os.kill(pid, signal.SIGKILL)
                # Not for what it has started, and not for a kernel that keeps it.
                _wait(pid, _KILLED_SECONDS)
                raise ToolHangs(command, f"no end after {limit:g} s", "")
            output, errors = (os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace") for file in files[1:])
        finally:
            _running.pop(pid, None)
            _close(files)
        if status != 0:
            raise ToolFailed(command, f"exit status {status}", errors)
        return output

    return finish


def _write(file: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(file, data[at:], at)


def _wait(pid: int, seconds: float) -> int | None:
    """Wait for a child for so long; return its exit code (negative: the signal that ended it), None if it goes on."""
    if not _ends_within(pid, seconds):
        return None
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _ends_within(pid: int, seconds: float) -> bool:
    try:
        own = os.pidfd_open(pid)
    except OSError:
        # Before Linux 5.3, and where a seccomp filter does not know it.
        return _ends_within_by_looking(pid, seconds)
    try:
        poll = select.poll()
        poll.register(own, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(own)


def _ends_within_by_looking(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return True


def _close(files: Sequence[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
