"""Threads with an owner: what none of them foresaw is logged, shown in /healthz, and ends the process or restarts it.

A thread that dies in silence leaves a process that looks well and does not do its work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from egress_router.daemon.heartbeat import STUCK_SECONDS, Heartbeats
from egress_router.daemon.log import LOGGER, show_beats
from egress_router.daemon.loop import Loop
from egress_router.errors import EgressRouterError

#: A thread that failed is started again so often, and a job that fails is let pass so often in a row.
MOST_FAILURES = 5
#: A thread that ran so long without a failure has recovered.
STEADY_SECONDS = 60.0
#: Before a thread is started again.
RESTART_SECONDS = 0.1

Result = TypeVar("Result")


class ThreadFailed(EgressRouterError):
    """A thread ended by an error that nobody foresaw; its traceback is in the log."""


class Threads:
    """The threads of one process. ``loop`` is told of what cannot go on: it raises ThreadFailed."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.heartbeats: Heartbeats = loop.heartbeats

    @contextmanager
    def owning_all(self) -> Iterator[None]:
        """Own threads that others start, too: one that ends by an error that nobody foresaw ends the process, and the
        one that writes the log has its beats here.
        """
        show_beats(self.heartbeats)
        before = threading.excepthook

        def ended(arguments: threading.ExceptHookArgs) -> None:
            name = arguments.thread.name if arguments.thread is not None else "?"
            if arguments.exc_value is not None:
                self._failed(name, arguments.exc_value, most=0)

        threading.excepthook = ended
        try:
            yield
        finally:
            threading.excepthook = before

    def start(
        self,
        name: str,
        target: Callable[[Callable[[], None]], None],
        *,
        limit: float = STUCK_SECONDS,
        restarts: int = MOST_FAILURES,
    ) -> threading.Thread:
        """Run ``target`` in a thread; it gets a function to call at least every ``limit`` seconds, its heartbeat.

        When it raises it is called again, ``restarts`` times; after that the process ends.
        """
        self.heartbeats.watch(name, limit)
        thread = threading.Thread(target=self._keep, args=(name, target, limit, restarts), name=name, daemon=True)
        thread.start()
        return thread

    def _keep(self, name: str, target: Callable[[Callable[[], None]], None], limit: float, restarts: int) -> None:
        while True:
            started = self._loop.now()
            try:
                target(lambda: self.heartbeats.beat(name))
            except BaseException as error:  # noqa: BLE001 - also SystemExit: whatever it was, the thread would be gone
                if self._loop.now() - started > STEADY_SECONDS:
                    self.heartbeats.recovered(name)
                if not self._failed(name, error, most=restarts):
                    return
                time.sleep(RESTART_SECONDS)
                self.heartbeats.watch(name, limit)
                continue
            self.heartbeats.forget(name)
            return

    def job(
        self,
        name: str,
        work: Callable[[], Result],
        done: Callable[[Result], object],
        limit: float = 300.0,
        failed: Callable[[], object] | None = None,
    ) -> threading.Thread:
        """Do ``work`` in a thread of its own and have the loop call ``done`` with what it returns.

        When it raises what nobody foresaw, that is logged and the loop calls ``failed``; when jobs of that name keep
        failing, the process ends. /healthz names one that takes longer than ``limit`` seconds.
        """
        return self.task(name, lambda: self._post(done, work()), limit, failed)

    def _post(self, done: Callable[[Result], object], result: Result) -> None:
        self._loop.post(lambda: done(result))

    def task(
        self,
        name: str,
        work: Callable[[], object],
        limit: float = 300.0,
        failed: Callable[[], object] | None = None,
    ) -> threading.Thread:
        """Do ``work`` in a thread of its own, as ``job`` does; nobody waits for its end."""
        self.heartbeats.watch(name, limit)
        thread = threading.Thread(target=self._do, args=(name, work, failed), name=name, daemon=True)
        thread.start()
        return thread

    def _do(self, name: str, work: Callable[[], object], failed: Callable[[], object] | None) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - as above
            if self._failed(name, error, most=MOST_FAILURES) and failed is not None:
                self._loop.post(failed)
        else:
            self.heartbeats.recovered(name)
        self.heartbeats.forget(name)

    def _failed(self, name: str, error: BaseException, *, most: int) -> bool:
        """Tell everybody; return whether the process goes on."""
        reason = f"{type(error).__name__}: {error}"
        LOGGER.error("thread %s ended by an error that nobody foresaw: %s", name, reason, exc_info=error)
        goes_on = self.heartbeats.failures(name) < most
        self.heartbeats.failed(name, reason, ended=not goes_on)
        if not goes_on:
            self._loop.fail(ThreadFailed(f"thread {name} ended: {reason}; see the log"))
        return goes_on
