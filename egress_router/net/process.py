"""Command-line tools: run, and what they said is kept; children that do not outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from egress_router.errors import PlatformError, ToolFailed
from egress_router.net.oserror import from_os

#: Loading tens of thousands of rules takes seconds; anything longer hangs.
TIMEOUT_SECONDS = 60


def run_tool(command: Sequence[str], text: str | None = None, started: Callable[[int], None] | None = None) -> str:
    """Run ``command`` with ``text`` as its input and return its output; ``started`` is told its process number.

    Raises PlatformError when the tool is not installed, ToolFailed with its stderr when it fails or hangs.
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

    def finish() -> str:
        try:
            output, errors = child.communicate(text or "", timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            child.kill()
            child.communicate()
            raise ToolFailed(command, f"no end after {TIMEOUT_SECONDS} s", "") from error
        except OSError as error:
            child.kill()
            child.wait()
            raise ToolFailed(command, error.strerror or "its input or output broke", "") from error
        if child.returncode != 0:
            raise ToolFailed(command, f"exit status {child.returncode}", errors)
        return output

    return finish


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
