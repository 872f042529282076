"""Run a command-line tool and keep what it said."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from egress_router.errors import PlatformError, ToolFailed

#: Loading tens of thousands of rules takes seconds; anything longer hangs.
TIMEOUT_SECONDS = 60


def run_tool(command: Sequence[str], text: str | None = None) -> str:
    """Run ``command`` with ``text`` as its input and return its output.

    Raises PlatformError when the tool is not installed, ToolFailed with its stderr when it fails or hangs.
    """
    try:
        done = subprocess.run(
            command, input=text or "", capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise PlatformError(f"`{command[0]}` is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(command, f"no end after {TIMEOUT_SECONDS} s", "") from error
    if done.returncode != 0:
        raise ToolFailed(command, f"exit status {done.returncode}", done.stderr)
    return done.stdout
