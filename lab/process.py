"""Commands that run to their end, and the end of processes that don't."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.patience import patient


class CommandFailed(Exception):
    """A command in the lab failed; the message holds its status and what it printed."""

    def __init__(self, command: Sequence[str], status: int, stdout: str, stderr: str) -> None:
        self.command, self.status, self.stdout, self.stderr = tuple(command), status, stdout, stderr
        super().__init__(f"`{' '.join(command)}` gave {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")


def environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """Return this process's environment without EGRESS_* variables, plus ``extra``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("EGRESS_")}
    return own | dict(extra or {})


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float = 10.0,
    input: str | None = None,  # noqa: A002 - the name subprocess.run has
    cwd: str | Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its descendants killed after ``timeout`` seconds (more on slow machines).

    Raises CommandFailed (unless ``check`` is False) and subprocess.TimeoutExpired.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment(env),
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(input, patient(timeout))
        except BaseException:
            kill_group(process)
            raise
    if check and process.returncode != 0:
        raise CommandFailed(command, process.returncode, stdout, stderr)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads its own group, with what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end(process: subprocess.Popen[Any], grace: float = 2.0) -> None:
    """Ask a process to end, kill it after ``grace`` seconds, reap it, close our ends of its pipes."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    kill_group(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def pids_in(namespaces: Iterable[str]) -> list[int]:
    """Return the processes, other than this one, whose network namespace is one of the given paths."""
    inodes = set()
    for path in namespaces:
        with suppress(OSError):
            inodes.add(Path(path).stat().st_ino)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if (entry / "ns/net").stat().st_ino in inodes:
                    found.append(int(entry.name))
    return found


def kill_in(namespaces: Sequence[str], timeout: float = 3.0) -> None:
    """Kill every process in the namespaces, such as daemons that left their parent, and wait for their end."""
    deadline = time.monotonic() + patient(timeout)
    while pids := pids_in(namespaces):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} do not end")
        time.sleep(0.005)
