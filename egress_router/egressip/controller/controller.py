"""How the controller of the automatic assignment runs."""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from egress_router.daemon.reachability import Health
from egress_router.daemon.signals import Inbox
from egress_router.egressip.api import ClusterState, Decision, Disposition, address_key, address_text, family
from egress_router.egressip.assignment.decision import Evaluator
from egress_router.egressip.controller.leader_election import AssignmentRecord, Lease
from egress_router.egressip.controller.watched_nodes import ControllerSettings, WatchedNodes
from egress_router.egressip.source.directory import ClusterSource
from egress_router.errors import EgressRouterError, PlatformError, Problem, TryAgainError
from egress_router.net.icmp_probe import Answer, Prober
from egress_router.net.rtnetlink.kernel import Rtnetlink

# The controller: one process in the cluster that probes the nodes and writes the automatic assignment down.

#: A controller that stands by asks for the lease so often; seconds.
STAND_BY = 0.5
#: What could not be written is tried again after so long, then twice as long, at most the other; seconds.
RETRY, RETRY_MOST = 0.5, 30.0
#: The loop turns at least so often; seconds.
TURN = 5.0
#: A log names so many moved addresses; the rest is counted.
NAMED_MOVES = 20
_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a source address; nothing is answered there


@dataclass(slots=True)
class Figures:
    """What has happened since the start."""

    leads: bool = False
    ready: bool = False
    writes: int = 0
    failed_writes: int = 0
    moves: int = 0
    turned: float = field(default_factory=time.monotonic)
    trouble: str = ""
    problems: tuple[Problem, ...] = ()
    decision: Decision = field(default_factory=lambda: Decision({}, {}, {}))


class Controller:
    """Runs until ``inbox.stop``. What it has written down stays, and the agents follow it."""

    def __init__(
        self,
        settings: ControllerSettings,
        source: ClusterSource,
        record: AssignmentRecord,
        lease: Lease,
        log: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._source = source
        self._record = record
        self._lease = lease
        self._log = log
        self.inbox = Inbox()
        self.figures = Figures()
        self.watched = WatchedNodes(settings)
        self._state = ClusterState()
        self._evaluator: Evaluator | None = None
        self._probers: dict[int, Prober] = {}
        self._own: frozenset[str] = frozenset()
        self._targets: dict[int, dict[str, str]] = {}
        self._retry_at = 0.0
        self._retry_wait = RETRY

    def run(self) -> None:
        """Wait for the lease, then assign. Raises TryAgainError when the lease is lost."""
        if not self._lead():
            return
        try:
            self._read()
            self._start_probers()
            # Two rounds more than it takes to tell that a node is down: who holds what is known before anything moves.
            self._turn(time.monotonic() + self._settings.probe_interval * (self._settings.probe_misses + 2), first=True)
            while not self.inbox.stopping:
                self._assign()
                if not self.figures.ready:
                    # The objects stay for long; a full collection of garbage takes longer than most decisions.
                    gc.freeze()
                self.figures.ready = True
                self._turn(self._next())
        finally:
            for prober in self._probers.values():
                prober.stop()
            self._lease.release()

    def _lead(self) -> bool:
        told = ""
        while not self.inbox.stopping:
            self.figures.turned = time.monotonic()
            if self._lease.acquire():
                self.figures.leads = True
                self._log("assigns")
                return True
            if told != (holder := self._lease.holder()):
                told = holder
                self._log(f"stands by: {holder} assigns")
            select.select([self.inbox], [], [], STAND_BY)
        return False

    def _start_probers(self) -> None:
        for version, any_address in _ANY.items():
            hear = partial(self._hear, version)
            try:
                prober = Prober(any_address, self._settings.probe_port, self._settings.probe_interval, hear)
            except PlatformError as error:
                self._log(f"nodes with IPv{version} addresses cannot be probed: {error}")
                continue
            self._probers[version] = prober
        self._aim()
        for prober in self._probers.values():
            prober.start()

    def _aim(self) -> None:
        """Probe every node that the objects tell of, and the witnesses."""
        with Rtnetlink() as kernel:
            ours = {str(address.address.ip) for address in kernel.addresses()}
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
        self._tell_probers()

    def _tell_probers(self) -> None:
        """Agents of nodes that are up are asked less often."""
        up = frozenset(name for name, node in self.watched.nodes.items() if node.health.state is Health.UP)
        for version, prober in self._probers.items():
            prober.set_targets(self._targets[version], frozenset(), up)

    def _hear(self, version: int, answers: Mapping[str, Answer]) -> None:
        """Called from a prober's thread after each round."""
        self.inbox.post(lambda: self._probed(version, answers))

    def _probed(self, version: int, answers: Mapping[str, Answer]) -> bool:
        said = self.watched.probed(version, answers, self._own, time.monotonic())
        for text in said:
            self._log(text)
        if said:
            self._tell_probers()
        return bool(said)

    def _next(self) -> float:
        now = time.monotonic()
        due = [now + TURN, self.watched.next_release(now), self._retry_at if self.figures.trouble else None]
        return min(at for at in due if at is not None)

    def _turn(self, until: float, *, first: bool = False) -> None:
        """Wait for a change, at most until then; the ``first`` time all that long."""
        while not self.inbox.stopping and (left := until - time.monotonic()) > 0:
            self.figures.turned = time.monotonic()
            readable = select.select([self._source.fileno(), self.inbox.fileno()], [], [], left)[0]
            changed = self.inbox.take()
            if self._source.fileno() in readable and self._source.wait(0):
                nodes = self._state.nodes
                self._read()
                if self._state.nodes != nodes:
                    self._aim()
                changed = True
            if changed and not first:
                return

    def _read(self) -> None:
        try:
            state, self.figures.problems = self._source.read()
        except OSError as error:
            self.figures.problems = (Problem("state", None, "", f"cannot be read: {error.strerror}"),)
            return
        self._follow(state)

    def _follow(self, state: ClusterState) -> None:
        self._state = state
        self.watched.keepers = frozenset(node for node, ips in state.assignment.items() if ips)

    def _assign(self) -> None:
        """Decide, and write down what differs."""
        state, figures = self._state, self.figures
        now = time.monotonic()
        if self._evaluator is None:
            self._evaluator = Evaluator(state.assignment)
            figures.decision = Decision({}, {}, {})
        old = figures.decision
        self._evaluator.update(
            {**dict.fromkeys(old.namespaces.keys() - state.namespaces.keys()), **state.namespaces},
            {**dict.fromkeys(old.nodes.keys() - state.nodes.keys()), **state.nodes},
            self.watched.offline(now),
        )
        figures.decision = decision = self._evaluator.decision()
        without = tuple(self.watched.down(now))
        if dict(decision.assignment) == dict(state.assignment) and without == state.assigned_without:
            figures.trouble = ""
            return
        if not figures.trouble or now >= self._retry_at:
            self._write(decision, without)

    def _write(self, decision: Decision, without: tuple[str, ...]) -> None:
        figures = self.figures
        if not self._lease.held():
            raise TryAgainError("the lock file was taken away or replaced; another controller may assign now")
        try:
            self._record.write(decision.assignment, without)
        except (OSError, EgressRouterError) as error:
            figures.failed_writes += 1
            self._retry_wait = min(2 * self._retry_wait, RETRY_MOST) if figures.trouble else RETRY
            self._retry_at = time.monotonic() + self._retry_wait
            figures.trouble = f"the assignment cannot be written: {error}"
            self._log(f"{figures.trouble}; tried again in {self._retry_wait:g} s")
            # Moves are counted from what stands written, not from what could not be.
            self._evaluator = None
            return
        figures.trouble = ""
        figures.writes += 1
        self._tell_moves(decision)
        self._follow(replace(self._state, assignment=decision.assignment, assigned_without=without))

    def _tell_moves(self, decision: Decision) -> None:
        before = {ip: node for node, ips in self._state.assignment.items() for ip in ips}
        after = {ip: node for node, ips in decision.assignment.items() for ip in ips}
        moved = [ip for ip in sorted(before.keys() | after.keys()) if before.get(ip) != after.get(ip)]
        self.figures.moves += sum(1 for ip in moved if ip in before)
        for ip in moved[:NAMED_MOVES]:
            self._log(f"{ip}: {before.get(ip, 'no node')} -> {after.get(ip, 'no node')}")
        if len(moved) > NAMED_MOVES:
            self._log(f"and {len(moved) - NAMED_MOVES} more addresses")

    @property
    def turned(self) -> float:
        """When the loop turned last; time.monotonic()."""
        return self.figures.turned

    def reasons(self, now: float) -> list[str]:
        """Return why the controller does not do its work; one that stands by does."""
        if self.figures.trouble:
            return [self.figures.trouble]
        return ["the first rounds of probes run"] if self.figures.leads and not self.figures.ready else []

    def status(self) -> dict[str, object]:
        """Return all that the status shows, as plain data."""
        figures, now = self.figures, time.monotonic()
        down = self.watched.offline(now)
        return {
            "leads": figures.leads,
            "ready": figures.ready and not figures.trouble,
            "problems": [*([figures.trouble] if figures.trouble else []), *map(str, figures.problems)]
            + [f"no other machine answers by IPv{version}; what others hold stays" for version in self.watched.cut_off]
            + [f"node {name} answers, its agent does not; it keeps what it has" for name in self.watched.silent()],
            "nodes": {
                name: {
                    "health": node.health.state.value,
                    "assigned": name not in down,
                    "waited_for": node.hold.held(now),
                }
                for name, node in sorted(self.watched.nodes.items())
            },
            "assignment": {node: list(ips) for node, ips in figures.decision.assignment.items()},
            "namespaces": {
                name: {"disposition": verdict.disposition.value, "reasons": list(verdict.reasons)}
                for name, verdict in figures.decision.namespaces.items()
                if verdict.disposition is not Disposition.NORMAL and verdict.reasons
            },
        }
