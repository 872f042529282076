"""Work in a forked child, which starts with all modules loaded; its answer comes as JSON through a pipe."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from egress_router import errors
from egress_router.errors import EgressRouterError, PlatformError, ToolFailed
from egress_router.net.oserror import translating
from egress_router.net.parent import die_with_parent
from egress_router.records import dataclass

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
