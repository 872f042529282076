"""One child process in the foreground: started, its error output read line by line, reaped by the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from egress_router.net.parent import die_with_parent

#: How many of its last lines are kept to explain a death.
REMEMBERED_LINES = 20
#: A longer line is cut; nothing that a proxy says needs more.
MAX_LINE = 8192


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a child: its command, its whole environment (None: ours), descriptors it inherits, and the
    descriptor that becomes its standard output (None: the same pipe as its standard error). ``name`` is what its engine
    knows it by.
    """

    command: tuple[str, ...]
    name: str = ""
    environment: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    stdout: int | None = None


class Child:
    """A running (or ended) child. ``status`` is None until it was reaped, then as ``subprocess`` has it."""

    def __init__(self, launch: Launch, generation: int) -> None:
        """Start the process. OSError when the program cannot be executed at all."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        parent = os.getpid()

        try:
            self._process = subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=write if launch.stdout is None else launch.stdout,
                stderr=write,
                env=launch.environment,
                pass_fds=launch.pass_fds,
                close_fds=True,
                # A terminal's Ctrl-C reaches the supervisor alone, which then drains.
                start_new_session=True,
                # Nobody may keep the port after a kill -9 of the supervisor.
                preexec_fn=partial(die_with_parent, parent),  # noqa: PLW1509  # no lock is taken between fork and exec
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.pid = self._process.pid
        self.command = launch.command
        self.name = launch.name
        self.generation = generation
        self.status: int | None = None
        self.output = read
        self.last_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._partial = b""

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the child was reaped already (its PID may be somebody else's)."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_all(self) -> None:
        """Kill it, and what it has started in its own process group; nothing when it was reaped already."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def ended(self, wait_status: int) -> None:
        """Record the status that waitpid(2) gave."""
        self.status = os.waitstatus_to_exitcode(wait_status)
        # Popen must neither wait for it nor warn about it.
        self._process.returncode = self.status

    def reason(self) -> str:
        """Say how it ended and its last words, for a message."""
        if self.status is None:
            how = "still runs"
        elif self.status < 0:
            how = f"was killed by {signal.Signals(-self.status).name}"
        else:
            how = f"exited with status {self.status}"
        words = "\n  ".join(self.last_lines)
        return f"{how}; its last words:\n  {words}" if words else f"{how} without a word"

    def read_lines(self, line: Callable[[str], None]) -> bool:
        """Pass every complete line that is waiting to ``line``; return False at the end of the output."""
        while True:
            try:
                data = os.read(self.output, 65536)
            except BlockingIOError:
                return True
            if not data:
                if self._partial:
                    self._emit(self._partial, line)
                    self._partial = b""
                return False
            *complete, self._partial = (self._partial + data).split(b"\n")
            for raw in complete:
                self._emit(raw, line)
            if len(self._partial) > MAX_LINE:
                self._emit(self._partial, line)
                self._partial = b""

    def _emit(self, raw: bytes, line: Callable[[str], None]) -> None:
        text = raw[:MAX_LINE].decode("utf-8", "backslashreplace").rstrip()
        if text:
            self.last_lines.append(text)
            line(text)

    def close(self) -> None:
        """Close our end of its output."""
        if self.output >= 0:
            os.close(self.output)
            self.output = -1
