"""PID 1 of a proxy container: runs an engine (Squid, HAProxy) in the foreground and replaces it without a gap.

One loop. A *generation* is one checked configuration and the children that run it. At most one is in force; a reload
starts the next one beside it, and only when that one is ready the old one is retired, to finish what it has begun.
Every failure on the way leaves the old generation in force. One that has lost some of its children goes on with the
others, until a whole one takes its place. Reading and checking a configuration takes its time, so a thread does it:
signals are heard meanwhile.

Signals: SIGTERM and SIGINT drain and exit, a second one ends at once; SIGHUP reloads; SIGUSR1, SIGUSR2 and
SIGWINCH go to the children in force. All children that come to us are reaped, ours or orphans.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic

from egress_router.daemon.children import Child, Launch
from egress_router.daemon.clock import ClockSet, SetBack
from egress_router.daemon.engine import Counters, Engine, Generation, Limits, Prepared
from egress_router.daemon.file_watch import Watch
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.errors import EgressRouterError, PlatformError

log = logging.getLogger(__name__)

#: Seconds between two looks at watched files, deadlines, children that drain, and the clock where nothing tells of it.
TICK = 0.5
#: Seconds between two looks while a new child is starting.
STARTING_TICK = 0.02
#: For the children in force.
FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


@dataclass(slots=True)
class Supervisor(Generic[Prepared]):
    """Runs ``engine`` until SIGTERM. ``report`` is called with the counters whenever they change.

    ``leaving``: told to leave, so not ready; ``stopping``: nothing new is taken.
    """

    engine: Engine[Prepared]
    limits: Limits = field(default_factory=Limits)
    report: Callable[[Counters], None] = lambda _: None
    counters: Counters = field(default_factory=Counters)
    loop: Loop = field(default_factory=Loop)
    #: Starts children; replaced in tests.
    spawn: Callable[[Launch, int], Child] = Child
    leaving: bool = False
    stopping: bool = False
    threads: Threads = field(init=False)

    _good: Prepared | None = None
    _current: Generation[Prepared] | None = None
    _candidate: Generation[Prepared] | None = None
    _draining: list[Generation[Prepared]] = field(default_factory=list)
    _watch: Watch = field(default_factory=lambda: Watch(()))
    _changes_taken: int = 0
    _preparing: bool = False
    _clock: SetBack = field(default_factory=SetBack)
    _reload_wanted: bool = False
    _deaths: int = 0
    _restart_at: float | None = None
    _number: int = 0

    def __post_init__(self) -> None:
        self.threads = Threads(self.loop)

    @property
    def heartbeats(self) -> Heartbeats:
        """Those of the loop and of the threads."""
        return self.loop.heartbeats

    def run(self) -> int:
        """Run until a signal ends it; return 0. Raises ConfigurationError when the first configuration is bad,
        PlatformError when the engine cannot run or keeps dying.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.on_signal(number, lambda number: self._stop(number.name))
        self.loop.on_signal(signal.SIGHUP, lambda _: self._want_reload())
        # What it tells is found by waiting for it, see _reap.
        self.loop.on_signal(signal.SIGCHLD, lambda _: None)
        for number in FORWARDED:
            self.loop.on_signal(number, self._forward)
        with self.loop.catching_signals(), self.threads.owning_all():
            return self._run()

    def _run(self) -> int:
        clock_set = self._follow_clock()
        try:
            self._watch = Watch(self.engine.watched())
            # What a former container of the pod left is not true any more.
            self._tell(ready=False)
            self._start()
            self._watch.follow(self.threads, self.loop, TICK, self._files_seen)
            next_look = self.loop.now() + TICK
            while not self._done():
                busy = self._candidate is not None or self._restart_at is not None or self.stopping
                self.loop.turn(self.loop.now() + (STARTING_TICK if busy else TICK))
                self._reap()
                now = self.loop.now()
                if now >= next_look:
                    next_look = now + TICK
                    self._look_at_clock()
                self._advance(now)
            return 0
        finally:
            self._watch.close()
            self._kill_all()
            self.loop.close()
            if clock_set:
                clock_set.close()

    def _follow_clock(self) -> ClockSet | None:
        """Look at the clock as soon as somebody has set it, where the kernel tells."""
        try:
            clock_set = ClockSet()
        except OSError:
            return None

        def seen() -> None:
            clock_set.seen()
            self._look_at_clock()

        self.loop.add_reader(clock_set.fileno(), seen)
        return clock_set

    def _look_at_clock(self) -> None:
        if back := self._clock.seconds():
            log.warning("the clock was set back by %.0f s: %s starts anew", back, self.engine.name)
            self._reload_wanted = True

    # Signals and output

    def _read_output(self, child: Child) -> None:
        if child.output >= 0 and not child.read_lines(lambda line: self.engine.on_output(child, line)):
            self._close_output(child)

    def _close_output(self, child: Child) -> None:
        if child.output >= 0:
            self.loop.remove(child.output)
            child.close()

    def _files_seen(self, _: bool) -> None:
        if not self._preparing and self._watch.changes != self._changes_taken:
            self._reload_wanted = True

    def _want_reload(self) -> None:
        self._reload_wanted = True

    def _forward(self, number: signal.Signals) -> None:
        if self._current:
            self._current.signal(number)

    def _stop(self, name: str) -> None:
        if self.stopping:
            log.warning("%s again: ending now", name)
            self._kill_all()
            return
        if self.limits.delay and not self.leaving:
            self.leaving = True
            log.info("%s: leaving; not ready, and new connections are taken for %g s more", name, self.limits.delay)
            self.loop.call_later(self.limits.delay, lambda: self._drain(name))
        else:
            self._drain(name)

    def _drain(self, name: str) -> None:
        if self.stopping:
            return
        log.info("%s: draining for at most %g s", name, self.limits.grace)
        self.leaving = self.stopping = True
        self._restart_at = None
        if self._candidate:
            self._candidate.signal(signal.SIGKILL)
        now = self.loop.now()
        for running in self._draining:
            running.deadline = now + self.limits.grace
        if self._current:
            self._retire(self._current, final=True)
            self._current = None
        self._tell(ready=False)

    # Generations

    def _start(self) -> None:
        """Have the next generation prepared, and start it as the candidate."""
        self._number += 1
        asked = self._reload_wanted
        self._reload_wanted = False
        self._preparing = True
        number = self._number

        def prepare() -> tuple[int, Prepared | EgressRouterError]:
            # What has changed so far is what this start is about, not one more reload.
            self._watch.changed()
            changes = self._watch.changes
            try:
                return changes, self.engine.prepare(number)
            except EgressRouterError as error:
                return changes, error

        unforeseen = EgressRouterError("it could not be prepared by an error that nobody foresaw; see the log")
        self.threads.job(
            "preparing",
            prepare,
            lambda result: self._prepared(number, *result, asked=asked),
            self.limits.prepare,
            lambda: self._prepared(number, self._watch.changes, unforeseen, asked=asked),
        )

    def _prepared(self, number: int, changes: int, found: Prepared | EgressRouterError, *, asked: bool) -> None:
        """Start what was prepared, with so many changes of the files; a failure is raised when there is no good
        generation.
        """
        self._preparing = False
        asked |= changes != self._changes_taken
        self._changes_taken = changes
        if self.stopping:
            return
        if isinstance(found, EgressRouterError):
            if self._good is None:
                raise found
            self._refused(str(found))
            if self._current and self._current.whole:
                return
            # The engine died while the configuration is broken: the last good one is still what was agreed.
            found, asked = self._good, False
        self._candidate = Generation(number, found, self.loop.now(), asked)
        try:
            self._launch(self._candidate)
        except EgressRouterError as error:
            if self._current is None:
                raise
            self._refused(str(error))
            self._kill(self._candidate)
            self._candidate = None

    def _launch(self, generation: Generation[Prepared]) -> None:
        previous = self._current.children[0] if self._current else None
        launches = self.engine.launch(generation.prepared, previous)
        generation.wanted = len(launches)
        for launch in launches:
            try:
                child = self.spawn(launch, generation.number)
            except OSError as error:
                raise PlatformError(f"{launch.command[0]} cannot be started: {error.strerror}") from error
            generation.children.append(child)
            self.loop.add_reader(child.output, lambda child=child: self._read_output(child))  # type: ignore[misc]

    def _refused(self, why: str) -> None:
        self.counters.reload_failures += 1
        log.error("reload refused, the configuration in force stays (generation %d): %s", self.counters.generation, why)
        self._tell(last_error=why, refused=True)

    def _advance(self, now: float) -> None:
        if self._candidate and not self.stopping:
            self._look_at_candidate(self._candidate, now)
        if self._current and self._deaths and now - self._current.since > self.limits.steady:
            self._deaths = 0
        self._start_again(now)
        for running in self._draining:
            over = running.deadline is not None and now >= running.deadline
            if over:
                running.deadline = None
                log.warning("generation %d: time is over, ending it", running.number)
            for child in running.children:
                if over or self.engine.finished(child, now - running.retired):
                    child.signal(signal.SIGKILL)

    def _start_again(self, now: float) -> None:
        """Start the next generation if one is due, because children died or somebody asked for it."""
        if self._candidate or self._preparing or self.stopping:
            return
        again = self._restart_at is not None and now >= self._restart_at
        if not again and not (self._reload_wanted and self._current):
            return
        # The last question: an engine may have to look through all connections for it.
        if self._current and not self.engine.may_replace():
            return
        if again:
            self._restart_at = None
        else:
            log.info("reload")
        self._start()

    def _look_at_candidate(self, candidate: Generation[Prepared], now: float) -> None:
        late = [child for child in candidate.children if not self.engine.ready(child, candidate.prepared)]
        if candidate.whole and not late:
            old, self._current, self._candidate = self._current, candidate, None
            candidate.since = now
            self._restart_at = None
            # A child that died may have been started again with what was in force, not with what was refused.
            refused = self.counters.refused and candidate.prepared is self._good
            self._good = candidate.prepared
            reloads = self.counters.reloads + candidate.asked
            self._tell(generation=candidate.number, reloads=reloads, ready=True, refused=refused, last_error="")
            log.info("%s generation %d is in force", self.engine.name, candidate.number)
            if old:
                self._retire(old, final=False)
                self._tell()
        elif now - candidate.since > self.limits.start:
            for child in late:
                child.last_lines.append(f"(not ready after {self.limits.start:g} s)")
                child.signal(signal.SIGKILL)

    def _retire(self, running: Generation[Prepared], final: bool) -> None:
        running.retired = self.loop.now()
        allowed = self.limits.grace if final else self.limits.drain
        running.deadline = None if allowed is None else running.retired + allowed
        self._draining.append(running)
        for child in running.children:
            self.engine.retire(child, final)
        for oldest in self._draining[: -self.limits.draining_generations]:
            log.warning("generation %d: too many old generations, ending it", oldest.number)
            oldest.signal(signal.SIGKILL)

    # Deaths

    def _reap(self) -> None:
        # What is preparing may have a child of its own, whose end it waits for itself.
        ours = [child.pid for running in self._known() for child in running.children]
        pids = ours if self._preparing else [-1]
        for wanted in pids:
            with suppress(ChildProcessError):
                while True:
                    pid, status = os.waitpid(wanted, os.WNOHANG)
                    if pid == 0:
                        break
                    self._reaped(pid, status)
                    if wanted != -1:
                        break

    def _known(self) -> list[Generation[Prepared]]:
        return [running for running in (self._current, self._candidate, *self._draining) if running]

    def _reaped(self, pid: int, status: int) -> None:
        found = [(running, child) for running in self._known() for child in running.children if child.pid == pid]
        if not found:
            return
        ((running, child),) = found
        child.ended(status)
        self._read_output(child)
        self._close_output(child)
        first = running.whole
        running.children.remove(child)
        self.engine.ended(child)
        if running is self._candidate:
            self._candidate_died(running, child)
        elif running is self._current:
            self._current_died(running, child, first=first)
        elif not running.children:
            self._draining.remove(running)
            log.info("%s generation %d is drained", self.engine.name, running.number)
            self._tell()

    def _current_died(self, current: Generation[Prepared], child: Child, *, first: bool) -> None:
        if not current.children:
            self._current = None
        # However many children a generation had, it died once.
        self._deaths += first and self._candidate is None and not self._preparing
        self._died(child)

    def _candidate_died(self, candidate: Generation[Prepared], child: Child) -> None:
        """All or nothing: the first death ends its siblings and is the one that is told."""
        candidate.signal(signal.SIGKILL)
        candidate.first_dead = candidate.first_dead or child
        if candidate.children:
            return
        self._candidate = None
        if self._current and self._current.whole:
            self._refused(f"{self.engine.name} {candidate.first_dead.reason()}")
        elif not self.stopping:
            self._deaths += 1
            self._died(candidate.first_dead)

    def _died(self, child: Child) -> None:
        reason = f"{self.engine.name} {child.reason()}"
        if self._candidate or self._preparing:
            log.error("%s; its successor is starting", reason)
        else:
            self._restart_later(child, reason)
        self.counters.restarts += 1
        self._tell(ready=self._current is not None, last_error=reason)

    def _restart_later(self, child: Child, reason: str) -> None:
        if self._deaths >= self.limits.deaths and self._current is None:
            raise PlatformError(
                f"{self.engine.name} died {self._deaths} times in a row; the last time it {child.reason()}"
            )
        # A doubled delay beyond any limit is none.
        delay = min(self.limits.backoff * 2 ** min(self._deaths - 1, 30), self.limits.backoff_max)
        others = f"; {len(self._current.children)} others go on" if self._current else ""
        log.error("%s%s; starting it again in %g s", reason, others, delay)
        self._restart_at = self.loop.now() + delay

    def _done(self) -> bool:
        return self.stopping and not (self._current or self._candidate or self._draining)

    def _kill_all(self) -> None:
        for running in (self._current, self._candidate, *self._draining):
            if running:
                self._kill(running)
        self._current = self._candidate = None
        self._draining.clear()

    def _kill(self, generation: Generation[Prepared]) -> None:
        """End its children and wait for them; a killed child of ours cannot linger."""
        generation.signal(signal.SIGKILL)
        for child in generation.children:
            child.ended(os.waitpid(child.pid, 0)[1])
            self._close_output(child)
            self.engine.ended(child)
        generation.children.clear()

    def _tell(self, **changes: int | bool | str) -> None:
        for name, value in changes.items():
            setattr(self.counters, name, value)
        self.counters.draining = len(self._draining)
        self.report(self.counters)
