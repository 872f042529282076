"""The event loop of every process that stays: descriptors, timers, signals, and actions of other threads.

One thread, one call at a time, nothing hidden: what an action raises comes out of ``turn`` and ends the process. Built
on ``selectors`` because asyncio alone costs a process 10 MB and half a second of its start, see
docs/decisions/0015-event-loop.md. The clock and the selector can be replaced, so that the order of steps is tested
without waiting.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import signal
import time

# What stays has it from its start on: where descriptors have run out, it could not be read when an error is logged.
import traceback  # noqa: F401
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType

from egress_router.daemon.heartbeat import MAIN_LOOP, Heartbeats

Action = Callable[[], object]
#: The loop turns at least so often, so that its heartbeat tells that it does.
TURN_SECONDS = 1.0


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Have SIGTERM and SIGINT end the process with 0 at once, as long as nothing runs that must be drained. Without a
    handler a process that is PID 1 does not hear them at all.
    """

    def leave(_: int, __: FrameType | None) -> None:
        # The interpreter's own end takes as long as there is much in memory.
        logging.shutdown()
        os._exit(0)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Timer:
    """An action at a time; ``cancel`` keeps it from being called."""

    __slots__ = ("action", "at", "every")

    def __init__(self, at: float, action: Action, every: float | None) -> None:
        self.at = at
        self.action: Action | None = action
        self.every = every

    def cancel(self) -> None:
        """Call it no more."""
        self.action = None


class Loop:
    """Times are seconds of ``clock``. ``name`` is what its heartbeat goes by."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        selector: selectors.BaseSelector | None = None,
        heartbeats: Heartbeats | None = None,
        name: str = MAIN_LOOP,
    ) -> None:
        self.now = clock
        self.name = name
        self.heartbeats = heartbeats or Heartbeats(clock)
        self.heartbeats.watch(name)
        self._stopping = False
        #: Whether the loop's thread knows that it shall stop: it is not stuck in an action.
        self.stop_seen = False
        self._selector = selector or selectors.DefaultSelector()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Timer]] = []
        self._posted: deque[Action] = deque()
        self._signals: deque[int] = deque()
        self._on_signal: dict[int, Callable[[signal.Signals], object]] = {}
        self._at_once: Callable[[], object] | None = None
        self._error: BaseException | None = None
        self._selector.register(self._read, selectors.EVENT_READ, (next(self._order), self._drain_wakeups))

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called. To be asked in the loop's thread, see ``stop_seen``."""
        self.stop_seen = self._stopping
        return self._stopping

    # From any thread

    def post(self, action: Action) -> None:
        """Have the loop call ``action`` in its next turn; from any thread."""
        self._posted.append(action)
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Have the loop raise ``error``; from any thread. The first one counts."""
        if self._error is None:
            self._error = error
        self._wake()

    def stop(self) -> None:
        """Have ``run`` return; from any thread, and in a signal handler."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        # A full pipe: the loop is about to wake up anyway. A closed one: it has ended.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write, b"x")

    # From the loop's own thread

    def at(self, when: float, action: Action) -> Timer:
        """Call ``action`` when it is so late."""
        return self._add(Timer(when, action, None))

    def call_later(self, seconds: float, action: Action) -> Timer:
        """Call ``action`` in so many seconds."""
        return self.at(self.now() + seconds, action)

    def every(self, seconds: float, action: Action) -> Timer:
        """Call ``action`` in the next turn, and again every so many seconds; never twice to make up for a delay."""
        return self._add(Timer(self.now(), action, seconds))

    def _add(self, timer: Timer) -> Timer:
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    def add_reader(self, descriptor: int, action: Action) -> None:
        """Call ``action`` in every turn in which ``descriptor`` can be read. Those added first are called first."""
        self._selector.register(descriptor, selectors.EVENT_READ, (next(self._order), action))

    def add_writer(self, descriptor: int, action: Action) -> None:
        """Call ``action`` in every turn in which ``descriptor`` can be written to."""
        self._selector.register(descriptor, selectors.EVENT_WRITE, (next(self._order), action))

    def remove(self, descriptor: int) -> None:
        """Wait for ``descriptor`` no more."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)

    def turn(self, until: float | None = None) -> None:
        """Wait for something to happen, at most ``until`` that time and for a second, and do all that is to be done.

        Signals come first, then what other threads have posted, descriptors, timers. Raises what any of it raises.
        """
        self.heartbeats.beat(self.name)
        now = self.now()
        wait = TURN_SECONDS if until is None else min(TURN_SECONDS, until - now)
        if self._timers:
            wait = min(wait, self._timers[0][0] - now)
        if self._posted or self._signals or self._stopping or self._error is not None:
            wait = 0.0
        found = self._selector.select(max(0.0, wait))
        ready = sorted(((key.fd, *key.data) for key, _ in found), key=lambda item: int(item[1]))
        self.heartbeats.beat(self.name)
        if self._error is not None:
            raise self._error
        while self._signals:
            number = signal.Signals(self._signals.popleft())
            self._on_signal[number](number)
        # Those that come meanwhile are for the next turn: a thread that posts all the time holds up nothing.
        for _ in range(len(self._posted)):
            self._posted.popleft()()
        waiting = self._selector.get_map()
        for descriptor, order, action in ready:
            # What was removed since must not be called: the descriptor may be closed, or another one's by now.
            if descriptor in waiting and waiting[descriptor].data[0] == order:
                action()
        self._call_timers()

    def _call_timers(self) -> None:
        now = self.now()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            if timer.action is None:
                continue
            if timer.every is not None:
                timer.at = max(timer.at + timer.every, self.now())
                self._add(timer)
            timer.action()

    def run(self) -> None:
        """Turn until ``stop``. Raises what an action raises."""
        while not self.stopping:
            self.turn()

    def at_once(self, action: Callable[[], object]) -> None:
        """Call ``action`` for each caught signal at once, also in the middle of another action; it must not wait."""
        self._at_once = action

    def on_signal(self, number: signal.Signals, action: Callable[[signal.Signals], object]) -> None:
        """Call ``action`` for each signal ``number`` while ``catching_signals``."""
        self._on_signal[number] = action

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Catch the signals of ``on_signal`` from now on; put the former handlers back in the end. For the main thread.

        A signal that comes while nobody turns the loop waits for it; signals that were blocked before are let in.
        """
        before = {number: signal.signal(number, self._caught) for number in self._on_signal}
        wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._on_signal)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _caught(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)
        if self._at_once is not None:
            self._at_once()

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 1 << 16):
                pass

    def close(self) -> None:
        """Give the descriptors back. Nothing can be called afterwards but what other threads may."""
        self._selector.close()
        os.close(self._read)
        write, self._write = self._write, -1
        os.close(write)
