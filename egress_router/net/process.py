"""Programs and forked children that do the kernel's work, and this process's memory."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from egress_router import errors
from egress_router.errors import EgressRouterError, PlatformError, ToolFailed
from egress_router.net.oserror import from_os, translating

# Run a command-line tool and keep what it said.

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


# Work in a forked child, which starts with all modules loaded; its answer comes as JSON through a pipe.

_TIMEOUT_SECONDS = 120.0


@dataclass(slots=True)
class Job:
    """A child at work. ``name`` is what an error calls it."""

    name: Sequence[str]
    pid: int
    pipe: int
    errors: int

    def result(self) -> Any:
        """Wait for the answer. Raises the child's error, or ToolFailed when it ended without one."""
        answer, stderr = self._read()
        _, status = os.waitpid(self.pid, 0)
        try:
            message = json.loads(answer)
        except ValueError:
            # python-iptables calls exit() on errors of its C library; silence is a failure, whatever the status.
            raise ToolFailed(self.name, f"status {os.waitstatus_to_exitcode(status)}", stderr) from None
        if "error" in message:
            kind = getattr(errors, message["kind"], PlatformError)
            raise (kind if issubclass(kind, EgressRouterError) else PlatformError)(message["error"])
        return message["result"]

    def _read(self) -> tuple[bytes, str]:
        data: dict[int, bytes] = {self.pipe: b"", self.errors: b""}
        waiting = set(data)
        end = time.monotonic() + _TIMEOUT_SECONDS
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
                end = time.monotonic() + 1
            for fd in ready:
                chunk = os.read(fd, 65536)
                data[fd] += chunk
                if not chunk:
                    waiting.discard(fd)
                    os.close(fd)
        return data[self.pipe], data[self.errors].decode(errors="replace")


def start(name: Sequence[str], work: Callable[[], Any]) -> Job:
    """Fork a child that does ``work``, whose result JSON can hold."""
    with translating(f"start a child for {' '.join(name)}"):
        read_end, write_end = os.pipe()
        read_errors, write_errors = os.pipe()
        parent = os.getpid()
        pid = os.fork()
    if pid:
        os.close(write_end)
        os.close(write_errors)
        return Job(name, pid, read_end, read_errors)
    die_with_parent(parent)
    # It lives for one job, and the collector would copy every page that it shares with its parent.
    gc.disable()
    status = 1
    try:
        os.dup2(write_errors, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        message = _answer(name, work)
        with os.fdopen(write_end, "w") as pipe:
            json.dump(message, pipe)
        status = 0
    finally:
        os._exit(status)


def _answer(name: Sequence[str], work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": work()}
    except ToolFailed as error:
        # Its constructor takes something else than a text.
        return {"error": str(error), "kind": "PlatformError"}
    except EgressRouterError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except Exception as error:  # noqa: BLE001 - everything must reach the parent, which has the log
        import traceback

        text = "".join(traceback.format_exception(error))
        return {"error": f"a bug of egress-router, in the child {name[0]}:\n{text}", "kind": "EgressRouterError"}


# Memory of this process. See malloc_trim(3), mallopt(3).

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 256 * 1024


def give_back_memory() -> None:
    """Give free memory back to the kernel, which the C library keeps otherwise; nothing on others than glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def map_large_blocks() -> None:
    """Have large blocks given back to the kernel as soon as they are free, also after the first one; as above."""
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
