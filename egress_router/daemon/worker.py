"""One thread that does what takes its time, in order, while the loop goes on and hears signals."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from egress_router.daemon.threads import Threads
from egress_router.records import dataclass

Result = TypeVar("Result")
#: Work that takes longer than this is named by /healthz.
WORK_SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class _Job:
    before: Callable[[], object] | None
    work: Callable[[], Any]
    done: Callable[[Any], object] | None


class Worker:
    """Does one piece of work at a time, in the order in which the loop asks for it. An error that nobody foresaw ends
    the process: what it was about to do is half done.
    """

    def __init__(self, threads: Threads, post: Callable[[Callable[[], object]], None], name: str) -> None:
        """``post`` is that of the loop."""
        self._threads = threads
        self._post = post
        self._name = name
        self._waiting: deque[_Job] = deque()
        self._given: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        #: Whether something is being done.
        self.busy = False

    def start(self) -> None:
        """Start the thread."""
        self._threads.start(self._name, self._run, limit=float("inf"), restarts=0)

    def do(
        self,
        work: Callable[[], Result],
        done: Callable[[Result], object] | None = None,
        *,
        before: Callable[[], object] | None = None,
        first: bool = False,
    ) -> None:
        """Do ``work`` in the thread when its turn comes, ``first`` of all that waits. ``before`` and ``done``, which
        gets what it returned, are called in the loop.
        """
        job = _Job(before, work, done)
        if first:
            self._waiting.appendleft(job)
        else:
            self._waiting.append(job)
        if not self.busy:
            self._next()

    def _next(self) -> None:
        if self._waiting:
            self.busy = True
            job = self._waiting.popleft()
            if job.before is not None:
                job.before()
            self._given.put(job)

    def _finished(self, job: _Job, result: Any) -> None:
        self.busy = False
        if job.done is not None:
            job.done(result)
        if not self.busy:
            self._next()

    def _run(self, beat: Callable[[], None]) -> None:
        beats = self._threads.heartbeats
        while True:
            job = self._given.get()
            beats.watch(self._name, WORK_SECONDS)
            result = job.work()
            beats.watch(self._name, float("inf"))
            self._post(lambda job=job, result=result: self._finished(job, result))  # type: ignore[misc]
