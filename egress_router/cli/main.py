"""The frame of the command line: one lazily imported module per verb, errors turned into text and exit codes.

``init`` without options is what every pod waits for, so that call goes around click (80 ms of imports).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from egress_router.errors import EgressRouterError, PlatformError, printable

#: What every pod waits for.
INIT = ["init"]
#: Processes that stay, until a signal ends them.
STAYING = (["run"], ["http-proxy"], ["dns-proxy"], ["node"], ["egressip", "controller"])

INTERNAL = 70
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb that the command line names and exit with the code of docs/exit-codes.md."""
    open_standard_streams()
    hear_children()
    args = list(sys.argv[1:] if argv is None else argv)
    if args == INIT:
        # Its life is short and all that it makes is in use: looking for garbage is a tenth of it.
        gc.disable()
    status = guarded(lambda: run(args))
    if args == INIT or args[:1] in STAYING or args[:2] in STAYING:
        leave(status)
    empty_buffers()
    sys.exit(status)


def empty_buffers() -> None:
    """Drop what a standard stream does not take, or the interpreter tries once more and ends with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed. Else the next file or socket gets its number, and the log."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given (open(2)), and those below are in use by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def hear_children() -> None:
    """Have the kernel keep how children ended. Who ignores SIGCHLD hands that on to what it starts (signal(7)), and
    nobody could ask whether nft has failed (waitpid(2), ECHILD).
    """
    # Windows, where manifests are checked, has none.
    number = getattr(signal, "SIGCHLD", None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


def leave(status: int) -> NoReturn:
    """End the process without taking the interpreter down piece by piece, which a pod would wait for: it takes as long
    as there is much in memory, and waits for threads.
    """
    log = sys.modules.get("logging")
    if log is not None:
        log.shutdown()
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
        tell("egress-router: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`status | head`).
        empty_buffers()
        return 0
    except OSError as error:
        report(PlatformError(refused(error)))
        return PlatformError.exit_code
    except Exception:
        import traceback

        with suppress(OSError):
            traceback.print_exc()
        tell("egress-router: this is a bug of egress-router; please report the lines above")
        return INTERNAL


def refused(error: OSError) -> str:
    """Say what the system refused, as far as the error tells."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    printing = last is not None and last.tb_frame.f_code.co_filename.endswith(("click/utils.py", "cli/output.py"))
    what = "what should be printed could not be written" if printing else "the system refused what was asked of it"
    where = f" ({printable(str(error.filename))})" if error.filename else ""
    return f"{what}{where}: {error.strerror or error}"


def tell(text: str) -> None:
    """Print a line for a person; nobody can be told that standard error takes none."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def report(error: EgressRouterError) -> None:
    """Say what went wrong on standard error: as an event where a verb logs JSON, else as text for a person."""
    log = sys.modules.get("egress_router.daemon.log")
    if log is not None and log.logs_json():
        log.LOGGER.error("%s", error)
    else:
        tell(f"egress-router: {error}")
