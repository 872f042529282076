"""Command-line tools: run, and what they said is kept; children that do not outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from egress_router.errors import PlatformError, ToolFailed, ToolHangs
from egress_router.net.oserror import from_os

#: Loading tens of thousands of rules takes seconds; anything longer hangs.
TIMEOUT_SECONDS = 60
#: One that was killed ends at once, unless the kernel keeps it: then it ends when that lets it go.
_KILLED_SECONDS = 1.0

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
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise PlatformError(f"`{command[0]}` is not installed") from error
    except PermissionError as error:
        raise PlatformError(f"`{command[0]}` may not be executed: {error.strerror}") from error
    except OSError as error:
        raise from_os(error, f"start `{command[0]}`", "") from error
    if started is not None:
        started(child.pid)
    limit = _limit
    _running[child.pid] = (" ".join(command), time.monotonic())

    def finish() -> str:
        try:
            return wait()
        finally:
            _running.pop(child.pid, None)

    def wait() -> str:
        try:
            output, errors = child.communicate(text or "", timeout=limit)
        except subprocess.TimeoutExpired as error:
            _abandon(child)
            raise ToolHangs(command, f"no end after {limit:g} s", "") from error
        except OSError as error:
            child.kill()
            child.wait()
            raise ToolFailed(command, error.strerror or "its input or output broke", "") from error
        if child.returncode != 0:
            raise ToolFailed(command, f"exit status {child.returncode}", errors)
        return output

    return finish


def _abandon(child: subprocess.Popen[str]) -> None:
    """Kill it and wait a moment for its end, not for what it has started and not for a kernel that keeps it."""
    child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_KILLED_SECONDS)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            # What was not written yet is lost with it.
            with contextlib.suppress(OSError):
                stream.close()


# Children must not go on with what their parent was about to do once that is gone: outside of a container nothing else
# ends them.

_PR_SET_PDEATHSIG = 1
# Bound before any fork: a child must not resolve symbols between fork and exec.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this forked process when the thread that forked it ends; ``parent`` is its process. See
    prctl(2).
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
