"""The frame of the command line: one lazily imported module per verb, errors turned into text and exit codes.

``init`` without options is what every pod waits for, so that call goes around click (80 ms of imports).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from egress_router.errors import EgressRouterError

#: What every pod waits for.
INIT = ["init"]

INTERNAL = 70
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb that the command line names and exit with the code of docs/exit-codes.md."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == INIT:
        # Its life is short and all that it makes is in use: looking for garbage is a tenth of it.
        gc.disable()
    status = guarded(lambda: run(args))
    if args == INIT:
        leave(status)
    sys.exit(status)


def leave(status: int) -> NoReturn:
    """End the process without taking the interpreter down piece by piece, which a pod would wait for."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def run(args: list[str]) -> int:
    """Run ``args`` and return the exit code; errors are raised."""
    if args == INIT:
        from egress_router.redirect.init import run_init

        return run_init(os.environ)
    if args == ["run"]:
        from egress_router.redirect.run import run_router

        return run_router(os.environ)
    from egress_router.cli.group import invoke

    return invoke(args)


def guarded(action: Callable[[], int]) -> int:
    """Return what ``action`` returns; an error of ours becomes its message on stderr and its exit code."""
    try:
        return action()
    except EgressRouterError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("egress-router: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`status | head`); keep the interpreter's own flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        import traceback

        traceback.print_exc()
        print("egress-router: this is a bug of egress-router; please report the lines above", file=sys.stderr)
        return INTERNAL


def report(error: EgressRouterError) -> None:
    """Say what went wrong on standard error: as an event where a verb logs JSON, else as text for a person."""
    log = sys.modules.get("egress_router.daemon.log")
    if log is not None and log.logs_json():
        log.LOGGER.error("%s", error)
    else:
        print(f"egress-router: {error}", file=sys.stderr)
