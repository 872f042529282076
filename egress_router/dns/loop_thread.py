"""An asyncio loop in a thread of its own, for look-ups, which ends visibly: by whatever nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)


class LoopThread:
    """``call`` and ``every`` may be called from any thread; all else is for what runs in the loop.

    An error of a callback or a task ends the thread with it: whoever owns threads hears of it.
    """

    def __init__(self, name: str, beat: Callable[[], None] = lambda: None) -> None:
        """``beat`` is called every second in the thread: its heartbeat."""
        self._error: BaseException | None = None
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._failed)
        self._name = name
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self.every(1.0, beat)

    def call(self, action: Callable[..., object], *arguments: object) -> None:
        """Have the thread call ``action`` soon; nothing happens when it has ended, of which its owner hears."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(action, *arguments)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Have the thread call ``action`` now and again and again."""

        def turn() -> None:
            self.loop.call_later(seconds, turn)
            action()

        self.call(turn)

    def stop(self, timeout: float) -> None:
        """Stop the loop, and wait for the thread."""
        # One turn of the loop for tasks that were cancelled to end.
        self.call(lambda: self.loop.call_soon(self.loop.stop))
        self._thread.join(timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()
        if self._error is not None:
            raise self._error

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:
            self._error = context.get("exception")
            loop.stop()
        else:
            log.error("%s: %s", self._name, context.get("message"), exc_info=context.get("exception"))


def owned_task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task whose error, which nobody may ever ask for, is one of the loop."""
    task = loop.create_task(work)
    task.add_done_callback(_raise)
    return task


def _raise(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
