"""``egress-router run``: set up as ``init`` does, then stay.

When the daemon does what: signals, events of the kernel, a changed file, timers. One worker thread does what takes its
time, in order; the loop goes on meanwhile.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.mounts import warn_own_mounts
from egress_router.config.settings import parse_log
from egress_router.config.values import Address, HostName
from egress_router.daemon.drain import Drain
from egress_router.daemon.endpoint import Answer, Endpoint, json_page
from egress_router.daemon.file_watch import Watch
from egress_router.daemon.log import LOGGER, log_warnings, set_up_log
from egress_router.daemon.loop import Loop, Timer, leaving_at_once
from egress_router.daemon.metrics import MetricsPage
from egress_router.daemon.page.rates import Rates
from egress_router.daemon.page.serve import router_pages
from egress_router.daemon.threads import Threads
from egress_router.daemon.worker import WORK_SECONDS, Worker
from egress_router.errors import ConfigurationError, EgressRouterError, PlatformError, TryAgainError
from egress_router.net.iptables.blocks import TableInfo
from egress_router.net.iptables.platform import available_families
from egress_router.net.memory import give_back_memory, map_large_blocks
from egress_router.net.notices import Events, nftables_events, route_events
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.records import replace
from egress_router.redirect.daemon import Reconciler
from egress_router.redirect.iptables_cached import CachedIptables
from egress_router.redirect.metrics import RouterCollector
from egress_router.redirect.names import Names
from egress_router.redirect.nft_backend import Nftables
from egress_router.redirect.nft_forked import ForkedNftables
from egress_router.redirect.offload import offload_json
from egress_router.redirect.page import ask_form, counts, redirect_view
from egress_router.redirect.pair.pair import Pair
from egress_router.redirect.pair.twins import PAGE, STUCK_SECONDS, Twins, features, own_page, proxy_lists
from egress_router.redirect.run_config import parse_run
from egress_router.redirect.setup import set_up
from egress_router.redirect.state import State
from egress_router.redirect.uplink import UplinkMonitor
from egress_router.redirect.values import Desired, RunConfig

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Events come in bunches; this much later the bunch is there.
DEBOUNCE_SECONDS = 0.003
#: Legacy iptables has no events; a look at its sizes costs microseconds.
TABLES_SECONDS = 0.06
FILE_SECONDS = 0.25
RETRY_SECONDS = 2.0
#: What no event tells (a rule in the place of another one) is found by looking at everything now and then.
FULL_SECONDS = {"nftables": 30.0, "iptables": 10.0}
#: Looking takes at most one part in so many of the time: in general, and while events keep coming for nothing.
FULL_SHARE, EVENT_SHARE = 200, 5
DRAIN_SECONDS = 0.25
#: At the end of the grace, and after a second signal, work that is under way has so long to end; what it leaves half
#: done is what kill -9 would leave.
LAST_WORK_SECONDS = 0.6
#: Of one whose successor waits: that would have to wait for the end of the pod as well.
HAND_OVER_SECONDS = 3.0


class RedirectDaemon:
    """Runs ``live`` until SIGTERM or SIGINT, and then until its connections are gone or the grace is over.

    ``watch`` knows the files as they were before they were read the first time.
    """

    def __init__(
        self,
        run: RunConfig,
        live: Reconciler,
        watch: Watch,
        loop: Loop,
        threads: Threads,
        *,
        worker: Worker | None = None,
        uplink: UplinkMonitor | None = None,
        pair: Pair | None = None,
    ) -> None:
        """``worker`` and ``uplink`` are for tests."""
        self._run = run
        self._live = live
        self._state = live.state
        self._loop = loop
        self._threads = threads
        self._worker = worker or Worker(threads, loop.post, "kernel")
        self._uplink = uplink or UplinkMonitor(run, live.state, loop, pair)
        self._pair = pair
        self._names = Names(run, live.state, loop, self._take_answers)
        self._check_at: Timer | None = None
        self._full_at: Timer | None = None
        self._check_waits = False
        self._rules_touched = self._network_touched = False
        self._idle_until = 0.0
        self._listening: list[Events] = []
        self._rule_events: Events | None = None
        self._tables: TableInfo | None = None
        self._tables_before: tuple[bytes, ...] = ()
        self._watch = watch
        self._file_changed = False
        self._leave_by = 0.0
        #: Until when a successor is waited for, by one that leaves.
        self._awaited_until = 0.0
        self._counting = False
        self._draining = Drain()

    def run(self) -> int:
        """Return 0 after a signal. Raises what nobody foresaw."""
        loop = self._loop
        for number in SIGNALS:
            loop.on_signal(number, self._signal)
        self._listening = self._listen()
        self._hear_events()
        self._worker.start()
        with loop.catching_signals(), self._threads.owning_all():
            try:
                self._watch.follow(self._threads, loop, FILE_SECONDS, self._file_seen)
                self._names.follow(self._live.config.rules.names)
                self._uplink.look_at_link()
                pace = self._run.probe_interval if self._pair is None else self._pair.config.pace
                loop.every(pace, self._uplink.probe)
                self._join(self._pair)
                if self._run.announce_interval:
                    loop.every(self._run.announce_interval, self._uplink.announce)
                self._full()
                loop.run()
            finally:
                if self._pair is not None:
                    self._pair.close()
                self._watch.close()
                self._names.close()
                self._uplink.close()
                for events in self._listening:
                    events.close()
                if self._tables is not None:
                    self._tables.close()
                loop.close()
        return 0

    def _join(self, pair: Pair | None) -> None:
        """Take part in the election of a pair; whoever is active holds the addresses."""
        if pair is None:
            return

        def held(good: bool) -> None:
            pair.held(good)
            if pair.state.holding:
                self._uplink.taken_over()

        self._live.may_hold = lambda: pair.wanted
        pair.hold = lambda: self._worker.do(lambda: self._live.hold(holds=pair.wanted), held, first=True)
        pair.network = lambda: self._live.desired.network
        pair.start(listen=self._run.router.dad)

    def _listen(self) -> list[Events]:
        found = [route_events()]
        if self._pair is not None:
            found[0].heeds = self._pair.lease.tells_more
        if self._live.backend.name == "nftables":
            self._rule_events = nftables_events()
            found.append(self._rule_events)
        else:
            tables = self._tables = TableInfo(available_families())
            self._tables_before = tables.read()
            self._loop.every(TABLES_SECONDS, lambda: self._look_at_tables(tables))
        return found

    # Repair

    def _heard(self, events: Events, *, network: bool) -> None:
        if events.drain():
            self._check_soon(rules=not network, network=network)

    def _look_at_tables(self, tables: TableInfo) -> None:
        if self._worker.busy:
            # Our own changes are no reason to look at the rules; others are found when the work is done.
            return
        now = tables.read()
        if now != self._tables_before:
            self._tables_before = now
            self._check_soon(rules=True, network=False)

    def _check_soon(self, *, rules: bool, network: bool) -> None:
        self._rules_touched |= rules
        self._network_touched |= network
        if self._check_at is None:
            wait = max(DEBOUNCE_SECONDS, self._idle_until - self._loop.now())
            self._check_at = self._loop.call_later(wait, self._check)

    def _check(self) -> None:
        """Look at what was touched and put back; look again at everything soon if that did not succeed."""
        if not self._check_waits:
            self._check_waits = True
            self._worker.do(self._check_now, self._checked, before=self._before_check)

    def _hold_events(self) -> None:
        """Leave the kernel's events where they are: most tell of what the worker is about to do."""
        for events in self._listening:
            self._loop.remove(events.fileno())

    def _hear_events(self) -> None:
        for events in self._listening:
            self._loop.add_reader(
                events.fileno(), partial(self._heard, events, network=events is not self._rule_events)
            )

    def _before_check(self) -> None:
        self._check_waits = False
        self._told = self._check_at is not None
        if self._check_at is not None:
            self._check_at.cancel()
        self._touched = self._rules_touched, self._network_touched
        self._check_at, self._rules_touched, self._network_touched = None, False, False
        self._check_started = self._loop.now()
        self._repairs_before = self._state.repairs
        if self._tables is not None:
            # Before the look: what changes from now on is a change.
            self._tables_before = self._tables.read()
        self._hold_events()

    def _check_now(self) -> bool:
        rules, network = self._touched
        return self._live.check(rules=rules, network=network)

    def _checked(self, good: bool) -> None:
        self._hear_events()
        rules, network = self._touched
        if network:
            self._uplink.look_at_link()
        taken = self._loop.now() - self._check_started
        if self._told and self._state.repairs == self._repairs_before:
            self._idle_until = self._check_started + taken * EVENT_SHARE
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

    def _file_seen(self, changed: bool) -> None:
        """Reload when a changed file has stayed the same for one look: a half-written one changes again."""
        if changed:
            self._file_changed = True
        elif self._file_changed:
            self._file_changed = False
            self._reload("EGRESS_DESTINATION_FILE has changed")

    def _reload(self, why: str) -> None:
        if not self._state.leaving:
            LOGGER.info("%s: reading the destinations anew", why)
            self._worker.do(self._live.reload, self._reloaded, before=self._before_reload)

    def _before_reload(self) -> None:
        if self._rule_events is not None:
            self._rule_events.pause()

    def _reloaded(self, _: None) -> None:
        if self._rule_events is not None:
            self._rule_events.listen()
            # What somebody else has changed meanwhile is another generation.
            self._check_soon(rules=True, network=False)
        self._names.follow(self._live.config.rules.names)

    # Names

    def _take_answers(
        self,
        answers: dict[HostName, tuple[Address, ...]],
        names: Collection[HostName],
        done: Callable[[], None],
    ) -> None:
        """Put answers in place. What the kernel tells of it is our own doing, and no reason to look at all rules."""

        def taken(good: bool) -> None:
            if not good:
                self._check_soon(rules=True, network=False)
            elif self._tables is not None:
                self._tables_before = self._tables.read()
            elif self._rule_events is not None:
                self._rule_events.drain()
            self._hear_events()
            done()

        self._worker.do(lambda: self._live.take_answers(answers, names), taken, before=self._heed_tables)

    def _heed_tables(self) -> None:
        """Note what has changed so far."""
        if self._tables is not None:
            now = self._tables.read()
            if now != self._tables_before:
                self._tables_before = now
                self._check_soon(rules=True, network=False)
        elif self._rule_events is not None:
            self._heard(self._rule_events, network=False)
        self._hold_events()

    # Leaving

    def _signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            self._reload("SIGHUP")
        elif self._state.leaving:
            LOGGER.warning("%s again: leaving now", number.name)
            self._leave_by = 0.0
            # Not even for work that does not end.
            self._loop.call_later(LAST_WORK_SECONDS, self._loop.stop)
        else:
            self._leave(number)

    def _leave(self, number: signal.Signals) -> None:
        if self._pair is not None and not self._pair.wanted:
            # Nothing goes by a standby, and it must not become anything else any more.
            self._pair.leave()
        delay = self._run.delay
        self._state.taking = delay is None
        self._state.leaving = True
        self._leave_by = self._loop.now() + (delay or 0) + self._run.grace
        # Whatever the worker is stuck in.
        last = HAND_OVER_SECONDS if self._run.router.handover else LAST_WORK_SECONDS
        self._loop.call_later((delay or 0) + self._run.grace + last, self._loop.stop)
        if delay is None:
            # Kubernetes sends new connections here as long as no other pod of the Service is ready.
            awaited = min(self._run.router.handover, self._run.grace)
            LOGGER.info(
                "%s: leaving when %sthere are no connections, in %d s at most; new ones are taken until then",
                number.name,
                f"another router asks for the address, or none has for {awaited} s, and " if awaited else "",
                self._run.grace,
            )
            self._worker.do(lambda: _tried(self._live.stop_offloading), lambda _: None)
            if awaited:
                self._awaited_until = self._loop.now() + awaited
                self._uplink.asked_for = self._successor_asks
            self._loop.every(DRAIN_SECONDS, self._drain)
        elif delay:
            LOGGER.info("%s: leaving; not ready, and new connections are taken for %d s more", number.name, delay)
            self._loop.call_later(delay, lambda: self._refuse(number))
        else:
            self._refuse(number)

    def _refuse(self, number: signal.Signals) -> None:
        if self._worker.busy:
            LOGGER.info("%s: what is under way is finished first", number.name)
        if self._pair is not None:
            # Whoever takes over takes the address with it: connections cannot go on here.
            self._pair.leave()
        self._worker.do(lambda: _tried(self._live.stop_accepting), lambda _: self._refusing(number), first=True)

    def _refusing(self, number: signal.Signals) -> None:
        LOGGER.info("%s: leaving; waiting at most %d s for connections", number.name, self._run.grace)
        self._loop.every(DRAIN_SECONDS, self._drain)

    def _successor_asks(self) -> None:
        """Somebody is about to take the address (duplicate address detection). Whoever says so without meaning it ends
        a wait, and nothing else: it is heeded only here, by one that was told to leave.
        """
        if self._awaited_until:
            self._awaited_until = 0.0
            LOGGER.info("another router asks for the address; leaving when there are no connections")

    def _drain(self) -> None:
        if not self._counting:
            self._counting = True
            self._worker.do(self._live_connections, self._counted)

    def _counted(self, left: int) -> None:
        self._counting = False
        now = self._loop.now()
        if now < self._leave_by and (left or now < self._awaited_until):
            return
        # Nothing more is counted.
        self._counting = True
        if self._pair is not None:
            self._pair.leave()
        end = self._live.close
        if self._run.router.handover:
            # Nothing of ours may be heard of the address any more, not even a question to a gateway.
            self._uplink.close()
            end = self._live.hand_over
        self._worker.do(lambda: _tried(end), lambda _: self._left(left), first=True)

    def _left(self, left: int) -> None:
        LOGGER.info("left; %s", f"{left} connections were cut" if left else "no connection was cut")
        self._loop.stop()

    def _live_connections(self) -> int:
        try:
            return self._draining.left(self._live.connections(), time.monotonic()) + self._live.proxied()
        except EgressRouterError as error:
            LOGGER.error("%s", error)
            return 0


def _tried(action: Callable[[], None]) -> None:
    try:
        action()
    except EgressRouterError as error:
        LOGGER.error("%s", error)


def _read(env: Mapping[str, str]) -> RunConfig:
    """Set up the log and return the configuration. Raises ConfigurationError with everything that is wrong."""
    inputs = load_inputs(env)
    problems = Problems()
    set_up_log(parse_log(inputs, problems, terminal=sys.stderr.isatty()))
    run = parse_run(inputs, problems)
    warn_unknown(inputs, problems)
    warn_own_mounts(inputs, problems)
    if run is None or problems.errors:
        raise ConfigurationError(problems.errors)
    log_warnings(problems.warnings)
    return run


def run_router(env: Mapping[str, str]) -> int:
    """Be the egress router that ``env`` says until SIGTERM or SIGINT; return 0. Raises EgressRouterError."""
    map_large_blocks()
    path = env.get("EGRESS_DESTINATION_FILE", "").strip()
    # Before the file is read: what changes in between is seen as a change.
    watch = Watch([Path(path)] if path else [])
    # Those that come now wait for the loop; one that ends this does not have to.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    with leaving_at_once():
        run = _read(env)
        # One of a pair begins as a standby.
        router = run.router if run.router.pair is None else replace(run.router, holds=False)
        desired, backend = set_up(router)
        backend = ForkedNftables(backend.kernel) if isinstance(backend, Nftables) else CachedIptables()
        give_back_memory()
        loop = Loop()
        threads = Threads(loop)
        state = State(interface=desired.network.egress, heartbeats=loop.heartbeats)
        live = Reconciler(env, router, desired, backend, state)
        pair = _prepare_pair(run, desired, loop)
        state.pair = None if pair is None else pair.state
        ended = live.end_stale()
        if ended:
            LOGGER.info("%d connections of former rules ended", ended)
        if pair is not None:
            live.prepare_to_hold()
            # Of the one before it, which was killed.
            live.end_proxied()
        # From here on connections are drained: the signal waits for the loop.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if run.router.health_port is not None:
        pages: dict[str, Callable[[], Answer]] = {
            "/metrics": MetricsPage(RouterCollector(live)),
            "/status": json_page(lambda: {**state.as_json(time.monotonic()), **offload_json(live.why_no_offload())}),
            # For those who ask while the file has a list that was refused.
            "/list": lambda: (200, "text/plain; charset=utf-8", live.config.rules.as_text().encode()),
        }
        if pair is not None:
            pages[PAGE] = _compare(pair, live, env, run.router.health_port, threads)
        asked = {}
        if run.page:
            rates = Rates(lambda: counts(live))
            # Counters are read when the worker is done, which may wait for a lock that somebody else holds.
            threads.start("rates", rates.keep_looking, limit=WORK_SECONDS)
            asked = router_pages(lambda: redirect_view(live, rates), lambda: ask_form(live))
        served = Endpoint(
            run.router.health_port, state, pages, warnings=state.warnings, asked=asked, hosts=run.page_hosts
        )
        served.start(threads)
    port = run.router.health_port
    LOGGER.info("staying until SIGTERM; health on port %s", "none" if port is None else port)
    return RedirectDaemon(run, live, watch, loop, threads, pair=pair).run()


def _compare(pair: Pair, live: Reconciler, env: Mapping[str, str], port: int, threads: Threads) -> Callable[[], Answer]:
    """Have the router compare itself with its peers, if it knows where to ask; return the page that they ask for."""
    known = (live.config.rules, str(live.config.rules))

    def mine() -> dict[str, str]:
        nonlocal known
        config = live.config
        if config.rules is not known[0]:
            # Ten thousand rules take a while.
            known = config.rules, str(config.rules)
        addresses = [*config.sources.values(), *config.gateways.values()]
        return features(pair.config, addresses, known[1], proxy_lists(env))

    if pair.config.peers:
        twins = Twins(pair.state, port, lambda: _pod_addresses(live.desired), mine)
        twins.met = pair.meet
        threads.start("peers", twins.keep_asking, limit=STUCK_SECONDS)
    return json_page(lambda: own_page(pair.state, mine))


def _pod_addresses(desired: Desired) -> list[Address]:
    return [address for found in desired.network.pod_addresses.values() for address in found]


def _prepare_pair(run: RunConfig, desired: Desired, loop: Loop) -> Pair | None:
    """Return the pair that the router belongs to, None when it is alone. Raises EgressRouterError."""
    if run.router.pair is None:
        return None
    with Rtnetlink() as kernel:
        link = kernel.link(desired.network.egress)
    if link is None:
        raise TryAgainError(f"{desired.network.egress} was there and is gone")
    if run.router.pair.by_cluster and link.shares_mac:
        raise PlatformError(
            f"{link.name} is an ipvlan, which gets no answers to IPv4 address probes: a pair that elects by the "
            "cluster's network could not see who has the address. Use a macvlan, or EGRESS_PAIR_NETWORK=egress"
        )
    sources = tuple(source.ip for source in run.router.sources.values())
    pair = Pair(run.router.pair, loop, sources, lambda: _pod_addresses(desired))
    pair.prepare(link.name, link.mac)
    return pair
