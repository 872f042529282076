"""Run a command-line tool and keep what it said."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from egress_router.errors import PlatformError, ToolFailed

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
    if started is not None:
        started(child.pid)

    def finish() -> str:
        try:
            output, errors = child.communicate(text or "", timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            child.kill()
            child.communicate()
            raise ToolFailed(command, f"no end after {TIMEOUT_SECONDS} s", "") from error
        if child.returncode != 0:
            raise ToolFailed(command, f"exit status {child.returncode}", errors)
        return output

    return finish
