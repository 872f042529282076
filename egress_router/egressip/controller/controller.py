"""The controller: one process in the cluster that probes the nodes and writes the automatic assignment down."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from egress_router.daemon.endpoint import bounded
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.daemon.page.view import AskForm
from egress_router.daemon.threads import Threads
from egress_router.egressip.api import (
    ClusterState,
    Decision,
    Disposition,
    HostSubnet,
    address_key,
    address_text,
    family,
)
from egress_router.egressip.assignment.decision import Evaluator
from egress_router.egressip.assignment.standby import taken_over, with_standbys
from egress_router.egressip.assignment.staying import joined, staying, with_staying
from egress_router.egressip.controller.drained_nodes import decide_drained
from egress_router.egressip.controller.leader_election import AssignmentRecord, Lease
from egress_router.egressip.controller.watched_nodes import PROBE_INTERVAL, ControllerSettings, WatchedNodes
from egress_router.egressip.fleet.ask import ask_form
from egress_router.egressip.fleet.history import History
from egress_router.egressip.fleet.view import Fleet, fleet_view
from egress_router.egressip.health import Health
from egress_router.egressip.source.directory import ClusterSource
from egress_router.errors import EgressRouterError, PlatformError, Problem, TryAgainError
from egress_router.net.icmp_probe import Answer, DrainPhase, Prober
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.signed_messages import Signatures

#: A controller that stands by asks for the lease so often; seconds.
STAND_BY = 0.5
#: And reads the objects so often, so that what has changed does not add up; seconds.
READ_STANDING_BY = 60.0
#: What could not be written is tried again after so long, then twice as long, at most the other; seconds.
RETRY, RETRY_MOST = 0.5, 30.0
#: The assignment is looked at at least so often; seconds.
LOOK_EVERY = 5.0
#: A log names so many moved addresses; the rest is counted.
NAMED_MOVES = 20
#: A message names so many nodes.
NAMED_NODES = 10
#: At the start, agents that were never heard of are waited for at most so long; seconds.
AGENTS = 120.0
_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a source address; nothing is answered there


@dataclass(slots=True)
class ControllerStatus:
    """What the controller knows at a moment, and what has happened since the start. ``error`` says why the assignment
    cannot be written. ``pools``: by name, how many addresses each pool has, and how many of them are given or listed.
    """

    leads: bool = False
    ready: bool = False
    writes: int = 0
    failed_writes: int = 0
    moves: int = 0
    error: str = ""
    problems: tuple[Problem, ...] = ()
    decision: Decision = field(default_factory=lambda: Decision({}, {}, {}))
    pools: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class NodeProber(Protocol):
    """What the controller needs of icmp_probe.Prober."""

    def set_targets(self, targets: Mapping[str, str], uses: frozenset[str], reduced_rate: frozenset[str]) -> None:
        """Probe these nodes from the next round on."""

    def run(self, beat: Callable[[], None] = ...) -> None:
        """Probe until ``stop``."""

    def stop(self) -> None:
        """End the probing."""


#: Makes the prober of an IP version, given what takes each round of answers. Raises PlatformError.
MakeProber = Callable[[int, Callable[[Mapping[str, Answer]], None]], NodeProber]


def make_prober(settings: ControllerSettings) -> MakeProber:
    """Return what makes probers of this machine's network. Raises ConfigurationError when the keys cannot be used."""
    signatures = None if settings.keys is None else Signatures(settings.keys, LOGGER.warning)

    # Connections wait for a standby: who is late is asked again at once.
    misses = settings.probe_misses if settings.standby else 0

    def make(version: int, on_answers: Callable[[Mapping[str, Answer]], None]) -> NodeProber:
        port, interval = settings.probe_port, settings.probe_interval
        return Prober(_ANY[version], port, interval, on_answers, signatures=signatures, misses=misses)

    return make


def _waits_for(nodes: set[str]) -> str:
    return f"waits for the agents of nodes that have addresses: {', '.join(sorted(nodes)[:NAMED_NODES])}"


def own_addresses() -> set[str]:
    """Return the addresses of this machine."""
    with Rtnetlink() as kernel:
        return {str(address.address.ip) for address in kernel.addresses()}


class Controller:
    """Runs until its loop is stopped. What it has written down stays, and the agents follow it."""

    def __init__(
        self,
        settings: ControllerSettings,
        source: ClusterSource,
        record: AssignmentRecord,
        lease: Lease,
        loop: Loop,
        threads: Threads,
        *,
        make_prober: MakeProber,
        own_addresses: Callable[[], set[str]] = own_addresses,
        unheard: Callable[[], set[str]] = set,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """``unheard`` gives the nodes that have addresses and whose agents have never said anything."""
        self._settings = settings
        self._unheard = unheard
        self._source = source
        self._record = record
        self._lease = lease
        self.loop = loop
        self._threads = threads
        self._make_prober = make_prober
        self._own_addresses = own_addresses
        self._wall_clock = wall_clock
        self.known = ControllerStatus()
        self.watched = WatchedNodes(settings)
        self.history = History()
        self._state = ClusterState()
        self._evaluator: Evaluator | None = None
        self._probers: dict[int, NodeProber] = {}
        self._own: frozenset[str] = frozenset()
        self._targets: dict[int, dict[str, str]] = {}
        self._changed = False
        self._retry_at = 0.0
        self._retry_wait = RETRY

    @property
    def heartbeats(self) -> Heartbeats:
        """Those of the loop and of the threads."""
        return self.loop.heartbeats

    @property
    def keeps_connections(self) -> bool:
        """Whether each address is to have a standby, and this controller is the one that sees to it."""
        return self._settings.standby and self.known.leads

    def run(self) -> None:
        """Wait for the lease, then assign. Raises TryAgainError when the lease is lost."""
        if not self._acquire_lease():
            return
        try:
            self._read()
            self.loop.add_reader(self._source.fileno(), self._on_objects)
            self._start_probers()
            # Two rounds more than it takes to tell that a node is down: who has what is known before anything moves.
            settings = self._settings
            begun, rounds = self.loop.now(), settings.probe_misses + 2
            self._wait(begun + settings.probe_interval * rounds, first_rounds=True)
            self._wait_for_standbys(begun + PROBE_INTERVAL * rounds)
            self._wait_for_agents(self.loop.now() + AGENTS)
            while not self.loop.stopping:
                self._assign()
                if not self.known.ready:
                    # The objects stay for long; a full collection of garbage takes longer than most decisions.
                    gc.freeze()
                self.known.ready = True
                self._wait(self._next_look())
        finally:
            for prober in self._probers.values():
                prober.stop()
            self._lease.release()

    def _acquire_lease(self) -> bool:
        logged, reads_from = "", self.loop.now() + READ_STANDING_BY
        while not self.loop.stopping:
            if self.loop.now() >= reads_from:
                reads_from = self.loop.now() + READ_STANDING_BY
                with suppress(OSError):
                    self._source.read()
            if self._lease.acquire():
                self.known.leads = True
                LOGGER.info("assigns")
                return True
            if logged != (holder := self._lease.holder()):
                logged = holder
                LOGGER.info("stands by: %s assigns", holder)
            due = self.loop.now() + STAND_BY
            while not self.loop.stopping and self.loop.now() < due:
                self.loop.turn(due)
        return False

    def _start_probers(self) -> None:
        for version in _ANY:
            try:
                self._probers[version] = self._make_prober(version, partial(self.on_answers, version))
            except PlatformError as error:
                LOGGER.warning("nodes with IPv%d addresses cannot be probed: %s", version, error)
        self._follow_nodes()
        for version, prober in self._probers.items():
            self._threads.start(f"IPv{version} prober", prober.run)

    def _follow_nodes(self) -> None:
        """Probe every node that the objects tell of, and the witnesses."""
        ours = self._own_addresses()
        targets: dict[int, dict[str, str]] = {version: {} for version in _ANY}
        named = {name: node.host_ip for name, node in self._state.nodes.items()}
        for name, text in [*named.items(), *((f"witness {text}", text) for text in self._settings.witnesses)]:
            key = address_key(text)
            if key is not None:
                targets[family(key)][name] = address_text(key)
        self._own = frozenset(name for group in targets.values() for name, ip in group.items() if ip in ours)
        probed = {name for version in self._probers for name in targets[version]}
        self.watched.set_names(probed & named.keys(), self._state.assigned_without)
        self._targets = targets
        self._set_targets()

    def _set_targets(self) -> None:
        """Agents of nodes that are up are asked at a reduced rate."""
        up = frozenset(name for name, node in self.watched.nodes.items() if node.health.state is Health.UP)
        for version, prober in self._probers.items():
            prober.set_targets(self._targets[version], frozenset(), up)

    def _wait_for_standbys(self, until: float) -> None:
        """Wait for the first word of the nodes that are to take addresses over: one that is not known yet is given
        nothing, and what it keeps of a holder that has died would be lost.
        """
        nodes = self.watched.nodes
        while not self.loop.stopping and self.loop.now() < until:
            standbys = set(self._state.standbys.values()) & nodes.keys()
            if all(nodes[name].health.state is not Health.UNKNOWN for name in standbys):
                return
            self._wait(min(until, self.loop.now() + self._settings.probe_interval), first_rounds=True)

    def _wait_for_agents(self, until: float) -> None:
        """Wait for the agents of nodes that have addresses. After an installation with objects that `migrate egressip`
        has written, controllers and agents start together, and addresses would move to whoever speaks first.
        """
        told: set[str] = set()
        while not self.loop.stopping and self.loop.now() < until and (missing := self._unheard()):
            if missing != told:
                told = missing
                LOGGER.info("%s", _waits_for(told))
            self._wait(min(until, self.loop.now() + LOOK_EVERY))

    # Events

    def on_answers(self, version: int, answers: Mapping[str, Answer]) -> None:
        """Take in a round of probes; called from a prober's thread."""
        self.loop.post(lambda: self._probed(version, answers))

    def _probed(self, version: int, answers: Mapping[str, Answer]) -> None:
        # Of the targets of now: one that is gone meanwhile would count for ever as a machine that answers.
        answers = {name: answer for name, answer in answers.items() if name in self._targets[version]}
        messages = self.watched.probed(version, answers, self._own, self.loop.now())
        for text in messages:
            LOGGER.info("%s", text)
        if messages:
            self._set_targets()
            self._changed = True

    def _on_objects(self) -> None:
        if self._source.wait(0):
            before = self._state
            self._read()
            if self._state.nodes != before.nodes:
                self._follow_nodes()
            # Pods, which come and go all the time, decide nothing here.
            self._changed |= replace(self._state, pods=before.pods) != before

    def _next_look(self) -> float:
        now = self.loop.now()
        due = [now + LOOK_EVERY, self.watched.next_release(now), self._retry_at if self.known.error else None]
        return min(at for at in due if at is not None)

    def _wait(self, until: float, *, first_rounds: bool = False) -> None:
        """Turn the loop until something changed, at most until then; in the ``first_rounds`` always until then."""
        self._changed = False
        while not self.loop.stopping and self.loop.now() < until:
            self.loop.turn(until)
            if self._changed and not first_rounds:
                return

    # The assignment

    def _read(self) -> None:
        try:
            state, self.known.problems = self._source.read()
        except OSError as error:
            self.known.problems = (Problem("state", None, "", f"cannot be read: {error.strerror}"),)
            return
        self._follow(state)

    def _follow(self, state: ClusterState) -> None:
        self._state = state
        self.watched.current_gateways = frozenset(node for node, ips in state.assignment.items() if ips)

    def _assign(self) -> None:
        """Decide, and write down what differs."""
        state, known = self._state, self.known
        now = self.loop.now()
        if self._evaluator is None:
            self._evaluator = Evaluator(state.assignment, balance=not self._settings.standby)
            known.decision = Decision({}, {}, {})
        drained = self.watched.drained()
        offline = self.watched.offline(now)
        leaving = {*offline, *drained}
        stay = staying(state, leaving)
        taken: dict[str, str] = {}
        if self._settings.standby:
            over = {name for name, phase in drained.items() if phase is DrainPhase.OVER}
            # Where their connections are, whatever the balance.
            taken = taken_over(state, {*offline, *over})
            stay = {**taken, **stay}
        nodes = with_staying(state.nodes, stay)
        decide = partial(self._decide, now, nodes)
        known.decision = decision = joined(decide_drained(nodes, state.assignment, drained, decide), stay)
        if self._settings.standby:
            decision = with_standbys(decision, state.namespaces, state.nodes, leaving, state.standbys)
            known.decision = decision
        self.history.observe(decision, self._health(), self._wall_clock())
        without = tuple(self.watched.down(now))
        before = (dict(state.assignment), state.assigned_without, dict(state.standbys))
        if before == (dict(decision.assignment), without, dict(decision.standbys)):
            known.error = ""
            return
        if not known.error or now >= self._retry_at:
            self._write(decision, without)
            if taken and not known.error:
                # From now on they are on these nodes like others that were assigned.
                self._evaluator = None

    def _decide(self, now: float, nodes: Mapping[str, HostSubnet], changed: Mapping[str, HostSubnet]) -> Decision:
        """Decide on these nodes, with some of them ``changed``."""
        assert self._evaluator is not None  # noqa: S101 - _assign has made it
        state, old = self._state, self.known.decision
        self._evaluator.update(
            {**dict.fromkeys(old.namespaces.keys() - state.namespaces.keys()), **state.namespaces},
            {**dict.fromkeys(old.nodes.keys() - nodes.keys()), **nodes, **changed},
            self.watched.offline(now),
        )
        return self._evaluator.decision()

    def _write(self, decision: Decision, without: tuple[str, ...]) -> None:
        known = self.known
        if not self._lease.held():
            raise TryAgainError("the lock file was taken away or replaced; another controller may assign now")
        try:
            self._record.write(decision.assignment, without, decision.standbys)
        except (OSError, EgressRouterError) as error:
            known.failed_writes += 1
            self._retry_wait = min(2 * self._retry_wait, RETRY_MOST) if known.error else RETRY
            self._retry_at = self.loop.now() + self._retry_wait
            known.error = f"the assignment cannot be written: {error}"
            LOGGER.error("%s; tried again in %g s", known.error, self._retry_wait)
            # Moves are counted from what stands written, not from what could not be.
            self._evaluator = None
            return
        known.error = ""
        known.writes += 1
        self._log_moves(decision)
        state = replace(self._state, assignment=decision.assignment, assigned_without=without)
        self._follow(replace(state, standbys=decision.standbys))

    def _log_moves(self, decision: Decision) -> None:
        before = {ip: node for node, ips in self._state.assignment.items() for ip in ips}
        after = {ip: node for node, ips in decision.assignment.items() for ip in ips}
        moved = [ip for ip in sorted(before.keys() | after.keys()) if before.get(ip) != after.get(ip)]
        self.known.moves += sum(1 for ip in moved if ip in before)
        for ip in moved[:NAMED_MOVES]:
            LOGGER.info("%s: %s -> %s", ip, before.get(ip, "no node"), after.get(ip, "no node"))
        if len(moved) > NAMED_MOVES:
            LOGGER.info("and %d more addresses", len(moved) - NAMED_MOVES)

    # What others ask

    def reasons(self, now: float) -> list[str]:
        """Return why the controller does not do its work; one that stands by does."""
        if self.known.error:
            return [self.known.error]
        if not self.known.leads or self.known.ready:
            return []
        if missing := self._unheard():
            return [_waits_for(missing)]
        return ["the first rounds of probes run"]

    def _health(self) -> dict[str, Health]:
        return {name: node.health.state for name, node in list(self.watched.nodes.items())}

    def problems(self) -> list[str]:
        """Return what is wrong with the objects and with what the controller sees, a sentence each."""
        known = self.known
        return [
            *([known.error] if known.error else []),
            *map(str, known.problems),
            *(f"no other machine answers by IPv{version}; what others hold stays" for version in self.watched.cut_off),
            *(f"node {name} answers, its agent does not; it keeps what it has" for name in self.watched.silent()),
        ]

    def fleet(self) -> Fleet:
        """Return what the fleet's page shows. Called from the endpoint's threads."""
        known = self.known
        problems = self.problems()
        if not known.leads:
            problems.insert(0, f"this controller stands by and looks at nothing: {self._lease.holder()} assigns")
        return fleet_view(
            self._state,
            known.decision,
            self._health(),
            self.history,
            self._wall_clock(),
            problems,
            figures=self.watched.figures(self.loop.now()),
            silent=frozenset(self.watched.silent()),
        )

    def ask_form(self) -> AskForm:
        """Return what the fleet's page can be asked. Called from the endpoint's threads."""
        return ask_form(self._state, self.known.decision)

    def status(self) -> dict[str, object]:
        """Return all that the status shows, as plain data."""
        known, now = self.known, self.loop.now()
        down = self.watched.offline(now)
        return {
            "leads": known.leads,
            "ready": known.ready and not known.error,
            "problems": bounded(self.problems()),
            "nodes": {
                name: {
                    "health": node.health.state.value,
                    "assigned": name not in down,
                    "waited_for": node.hold.held(now),
                }
                for name, node in sorted(self.watched.nodes.items())
            },
            "assignment": {node: list(ips) for node, ips in known.decision.assignment.items()},
            "standbys": dict(known.decision.standbys),
            "namespaces": {
                name: {"disposition": verdict.disposition.value, "reasons": list(verdict.reasons)}
                for name, verdict in known.decision.namespaces.items()
                if verdict.disposition is not Disposition.NORMAL and verdict.reasons
            },
        }
