"""``egress-router run``: set up as ``init`` does, then stay; when the daemon does what. One thread."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.settings import parse_log
from egress_router.config.values import Address, HostName
from egress_router.daemon.drain import Drain
from egress_router.daemon.endpoint import Answer, EndpointServer, json_page
from egress_router.daemon.file_watch import Watch
from egress_router.daemon.log import LOGGER, set_up_log
from egress_router.daemon.metrics import MetricsPage
from egress_router.errors import ConfigurationError, EgressRouterError
from egress_router.net.iptables.library import TableInfo
from egress_router.net.iptables.platform import available_families
from egress_router.net.notices import Events, nftables_events, route_events
from egress_router.net.process import give_back_memory, map_large_blocks
from egress_router.redirect.config import parse_run
from egress_router.redirect.daemon import LiveRouter
from egress_router.redirect.iptables_backend import KeptIptables
from egress_router.redirect.metrics import RouterCollector
from egress_router.redirect.names import Names
from egress_router.redirect.nft_backend import ForkedNftables, Nftables
from egress_router.redirect.setup import set_up
from egress_router.redirect.state import State
from egress_router.redirect.uplink import EgressSide
from egress_router.redirect.values import RunConfig

# When the long-lived router does what: signals, events of the kernel, a changed file, timers. One thread.

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Events come in bunches; this much later the bunch is there.
DEBOUNCE_SECONDS = 0.003
#: Legacy iptables has no events; a look at its sizes costs microseconds.
TABLES_SECONDS = 0.06
FILE_SECONDS = 0.25
TURN_SECONDS = 1.0
RETRY_SECONDS = 2.0
#: What no event tells (a rule in the place of another one) is found by looking at everything now and then.
FULL_SECONDS = {"nftables": 30.0, "iptables": 10.0}
#: Looking takes at most one part in so many of the time: in general, and while events keep coming for nothing.
FULL_SHARE, EVENT_SHARE = 200, 5
DRAIN_SECONDS = 0.25


class Loop:
    """Runs ``live`` until SIGTERM or SIGINT, and then until its connections are gone or the grace is over.

    ``watch`` knows the files as they were before they were read the first time.
    """

    def __init__(self, run: RunConfig, live: LiveRouter, watch: Watch) -> None:
        self._run = run
        self._live = live
        self._state = live.state
        self._loop = asyncio.new_event_loop()
        self._error: BaseException | None = None
        self._egress = EgressSide(run, live.state, self._loop)
        self._names = Names(run, live.state, self._loop, self._take_answers)
        self._check_at: asyncio.TimerHandle | None = None
        self._full_at: asyncio.TimerHandle | None = None
        self._rules_touched = self._network_touched = False
        self._idle_until = 0.0
        self._rule_events: Events | None = None
        self._tables: TableInfo | None = None
        self._tables_before: tuple[bytes, ...] = ()
        self._watch = watch
        self._file_changed = False
        self._leave_by = 0.0
        self._draining = Drain()

    def run(self) -> int:
        """Return 0 after a signal. Raises what nobody foresaw."""
        loop = self._loop
        loop.set_exception_handler(self._failed)
        listening = self._listen()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signal, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            self._every(TURN_SECONDS, self._turn)
            self._every(FILE_SECONDS, self._look_at_file)
            self._names.follow(self._live.config.rules.names)
            self._egress.look_at_link()
            self._every(self._run.probe_interval, self._egress.probe)
            if self._run.announce_interval:
                self._every(self._run.announce_interval, self._egress.announce)
            self._full()
            loop.run_forever()
        finally:
            self._names.close()
            self._egress.close()
            for events in listening:
                events.close()
            if self._tables is not None:
                self._tables.close()
            loop.close()
        if self._error is not None:
            raise self._error
        return 0

    def _listen(self) -> list[Events]:
        route = route_events()
        found = [route]
        self._loop.add_reader(route.fileno(), lambda: self._heard(route, network=True))
        if self._live.backend.name == "nftables":
            nftables = self._rule_events = nftables_events()
            found.append(nftables)
            self._loop.add_reader(nftables.fileno(), lambda: self._heard(nftables, network=False))
        else:
            tables = self._tables = TableInfo(available_families())
            self._tables_before = tables.read()
            self._every(TABLES_SECONDS, lambda: self._look_at_tables(tables))
        return found

    def _every(self, seconds: float, action: Callable[[], None]) -> None:
        def turn() -> None:
            self._loop.call_later(seconds, turn)
            action()

        self._loop.call_soon(turn)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A router that stumbles on must not look well: the container starts again, and the kernel forwards meanwhile.
        self._error = context.get("exception") or RuntimeError(str(context.get("message")))
        loop.stop()

    def _turn(self) -> None:
        self._state.turned = time.monotonic()

    # Repair

    def _heard(self, events: Events, *, network: bool) -> None:
        if events.drain():
            self._check_soon(rules=not network, network=network)

    def _look_at_tables(self, tables: TableInfo) -> None:
        now = tables.read()
        if now != self._tables_before:
            self._tables_before = now
            self._check_soon(rules=True, network=False)

    def _check_soon(self, *, rules: bool, network: bool) -> None:
        self._rules_touched |= rules
        self._network_touched |= network
        if self._check_at is None:
            wait = max(DEBOUNCE_SECONDS, self._idle_until - time.monotonic())
            self._check_at = self._loop.call_later(wait, self._check)

    def _check(self) -> None:
        """Look at what was touched and put back; look again at everything soon if that did not succeed."""
        told = self._check_at is not None
        if self._check_at is not None:
            self._check_at.cancel()
        rules, network = self._rules_touched, self._network_touched
        self._check_at, self._rules_touched, self._network_touched = None, False, False
        started = time.monotonic()
        before = self._state.repairs
        if self._tables is not None:
            # Before the look: what changes from now on is a change.
            self._tables_before = self._tables.read()
        good = self._live.check(rules=rules, network=network)
        if network:
            self._egress.look_at_link()
        taken = time.monotonic() - started
        if told and self._state.repairs == before:
            self._idle_until = started + taken * EVENT_SHARE
        if rules and network:
            self._full_in(max(FULL_SECONDS[self._live.backend.name], taken * FULL_SHARE) if good else RETRY_SECONDS)
        elif not good:
            self._full_in(RETRY_SECONDS)

    def _full_in(self, seconds: float) -> None:
        if self._full_at is not None:
            self._full_at.cancel()
        self._full_at = self._loop.call_later(seconds, self._full)

    def _full(self) -> None:
        self._rules_touched = self._network_touched = True
        self._check()

    # Reload

    def _look_at_file(self) -> None:
        """Reload when a changed file has stayed the same for one look: a half-written one changes again."""
        if self._watch.changed():
            self._file_changed = True
        elif self._file_changed:
            self._file_changed = False
            self._reload("EGRESS_DESTINATION_FILE has changed")

    def _reload(self, why: str) -> None:
        if not self._state.leaving:
            LOGGER.info("%s: reading the destinations anew", why)
            if self._rule_events is not None:
                self._rule_events.pause()
            self._live.reload()
            if self._rule_events is not None:
                self._rule_events.listen()
                # What somebody else has changed meanwhile is another generation.
                self._check_soon(rules=True, network=False)
            self._names.follow(self._live.config.rules.names)

    # Names

    def _take_answers(self, answers: dict[HostName, tuple[Address, ...]], names: Collection[HostName]) -> None:
        """Put answers in place. What the kernel tells of it is our own doing, and no reason to look at all rules."""
        self._heed_tables()
        if not self._live.take_answers(answers, names):
            self._check_soon(rules=True, network=False)
        elif self._tables is not None:
            self._tables_before = self._tables.read()
        elif self._rule_events is not None:
            self._rule_events.drain()

    def _heed_tables(self) -> None:
        """Note what has changed so far."""
        if self._tables is not None:
            self._look_at_tables(self._tables)
        elif self._rule_events is not None:
            self._heard(self._rule_events, network=False)

    # Leaving

    def _signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            self._reload("SIGHUP")
        elif self._state.leaving:
            LOGGER.warning("%s again: leaving now", number.name)
            self._leave_by = 0.0
        else:
            self._state.leaving = True
            self._leave_by = time.monotonic() + self._run.grace
            self._try(self._live.stop_accepting)
            LOGGER.info("%s: leaving; waiting at most %d s for connections", number.name, self._run.grace)
            self._every(DRAIN_SECONDS, self._drain)

    def _drain(self) -> None:
        left = self._live_connections()
        over = time.monotonic() >= self._leave_by
        if left and not over:
            return
        self._try(self._live.close)
        LOGGER.info("left; %s", f"{left} connections were cut" if left else "no connection was cut")
        self._loop.stop()

    def _live_connections(self) -> int:
        try:
            return self._draining.left(self._live.connections(), time.monotonic())
        except EgressRouterError as error:
            LOGGER.error("%s", error)
            return 0

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except EgressRouterError as error:
            LOGGER.error("%s", error)


# ``egress-router run``: set up as ``init`` does, then stay.


def run_router(env: Mapping[str, str]) -> int:
    """Be the egress router that ``env`` says until SIGTERM or SIGINT; return 0. Raises EgressRouterError."""
    map_large_blocks()
    path = env.get("EGRESS_DESTINATION_FILE", "").strip()
    # Before the file is read: what changes in between is seen as a change.
    watch = Watch([Path(path)] if path else [])
    inputs = load_inputs(env)
    problems = Problems()
    set_up_log(parse_log(inputs, problems, terminal=sys.stderr.isatty()))
    run = parse_run(inputs, problems)
    warn_unknown(inputs, problems)
    if run is None or problems.errors:
        raise ConfigurationError(problems.errors)
    for warning in problems.warnings:
        LOGGER.warning("%s", warning)
    # Blocked until the loop listens, so that a signal during the set-up is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    desired, backend = set_up(run.router)
    backend = ForkedNftables() if isinstance(backend, Nftables) else KeptIptables()
    give_back_memory()
    state = State(interface=desired.network.egress, turned=time.monotonic())
    live = LiveRouter(env, run.router, desired, backend, state)
    ended = live.end_stale()
    if ended:
        LOGGER.info("%d connections of former rules ended", ended)
    if run.router.health_port is not None:
        pages: dict[str, Callable[[], Answer]] = {
            "/metrics": MetricsPage(RouterCollector(live)),
            "/status": json_page(lambda: state.as_json(time.monotonic())),
        }
        EndpointServer(run.router.health_port, state, pages, remarks=state.remarks).start()
    port = run.router.health_port
    LOGGER.info("staying until SIGTERM; health on port %s", "none" if port is None else port)
    return Loop(run, live, watch).run()
