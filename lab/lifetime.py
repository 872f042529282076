"""Labs end with their process, however it ends (except by SIGKILL, for which there is ``lab down``)."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: What to call at the end of this process, by lab.
_standing: dict[str, Callable[[], None]] = {}
#: A child that was forked inherits the memory, not the duty.
_owner = 0


def ends_with_process(name: str, down: Callable[[], None]) -> None:
    """Have ``down`` called at interpreter exit, and make SIGTERM such an exit."""
    global _owner  # noqa: PLW0603 - one process, one owner
    if not _standing:
        _owner = os.getpid()
        atexit.register(_all_down)
        # The default action ends the process without any clean-up. A handler that somebody set is left alone.
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _exit)
    _standing[name] = down


def ended(name: str) -> None:
    """Forget a lab that is down; with the last one, everything is as it was."""
    _standing.pop(name, None)
    if not _standing:
        atexit.unregister(_all_down)
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is _exit:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the end, so that an impatient Ctrl-C does not cut a clean-up in two.

    Blocking the signals would not do: a process with several threads gets them in another one, and Python then
    runs the handler in the main thread all the same.
    """
    if not _in_main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda signum, _frame: came.append(signum))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signum in came:
            os.kill(os.getpid(), signum)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _exit(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _all_down() -> None:
    if os.getpid() == _owner:
        for down in list(_standing.values()):
            down()
