"""The agent of one node: objects and probes in, the state of the kernel out."""

from __future__ import annotations

import gc
import math
import socket
import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop, Timer
from egress_router.daemon.threads import Threads
from egress_router.egressip.api import ClusterState, HostSubnet, address_key
from egress_router.egressip.assignment.decision import Evaluator, with_recorded_assignment
from egress_router.egressip.health import Health
from egress_router.egressip.node.address_users import AddressUsers
from egress_router.egressip.node.connections import CONNECTED
from egress_router.egressip.node.control import TIMEOUT, ControlSocket
from egress_router.egressip.node.drain import NodeDrain
from egress_router.egressip.node.gateways import Gateways, LocalAssignments, wanted_here
from egress_router.egressip.node.giving import LINGER, Giving
from egress_router.egressip.node.handover import Arrival, Handovers
from egress_router.egressip.node.interface import require_host_ip
from egress_router.egressip.node.leave import LeaveFile
from egress_router.egressip.node.plan import PlanInputs, Planner, kept_by
from egress_router.egressip.node.ports import Claims, Dataplane, Prober, Standby
from egress_router.egressip.node.reassignment import ReassignmentGuard
from egress_router.egressip.node.replication import MOST_KEPT, Figures
from egress_router.egressip.node.source_ports import SourcePorts
from egress_router.egressip.node.standing_by import EarlyChecks, Pairs, pairs_of
from egress_router.egressip.node.starts import Starts
from egress_router.egressip.node.state import TUNNEL, Direct, NodeSettings, NodeState, Remote
from egress_router.egressip.node.status import AgentStatus, canonical_ip, drain_status, node_status, standby_status
from egress_router.egressip.node.told_figures import ToldFigures
from egress_router.egressip.source.directory import ClusterSource
from egress_router.egressip.source.told_pods import COUNTS
from egress_router.errors import EgressRouterError, Problem, ToolHangs
from egress_router.kubernetes.nri import Plugin
from egress_router.net.icmp_probe import REDUCED_RATE_ROUNDS, Answer, DrainPhase, Reply
from egress_router.net.process import slow_tool
from egress_router.net.signed_messages import Signatures
from egress_router.net.translations import source_of, translated_of
from egress_router.net.tunnel_echo import Leg, TunnelWay

#: How often the kernel is looked at although nothing happened; seconds.
CHECK_EVERY = 5.0
#: How long after other programs have changed their rules it is looked at whether they are in the way; seconds.
LOOK_AFTER = 0.5
#: How often tables are looked at of whose changes the kernel tells nobody; seconds.
UNHEARD_EVERY = 1.0
#: After a tool that hung, others' rules are looked at no sooner; seconds.
HANG_PAUSE = 60.0
#: A tool that takes longer hangs: what changes is not put in place meanwhile; seconds.
HANGS_AFTER = 2.0
#: Between two heartbeats so many connections are made: a fraction of a second, and many times that on a busy machine.
MADE_AT_ONCE = 8192
#: What other nodes say of pods that start waits for the loop so many times at most: they say it again at once.
MOST_TOLD = 64
#: How long this node's addresses are taken for the same; seconds.
OWN_EVERY = 1.0
#: An address that its holder gives away while it lives is announced so long after its standby has it, and once the
#: holder's own pods leave by that; seconds.
ANNOUNCED_AFTER, ANNOUNCED_AFTER_MOST, LOOK_AGAIN = 0.5, 2.0, 0.1
#: A holder that has missed so many probes in a row is silent: nobody has to think that it is down to ask who has its
#: addresses.
SILENT = 2
#: A node that asked within this many probe intervals is listened to in a drain.
USERS_WITHIN = 3 * REDUCED_RATE_ROUNDS


#: Between readings of objects lies as much time as this many of them take, within limits: so a rollout of thousands of
#: pods costs a part of a processor, and a single change is put in place at once; seconds.
PAUSE_TIMES, PAUSE_LEAST, PAUSE_MOST = 2, 0.01, 0.1


class Agent:
    """Runs until its loop is stopped; leaves everything in place, so that the next one takes over without a gap.

    One loop does everything but probes, duplicate checks and counting connections, which threads do. An event only
    marks that something must be applied; ``run`` applies it, once for all that came together.
    """

    def __init__(
        self,
        settings: NodeSettings,
        host_ip: str,
        source: ClusterSource,
        control: ControlSocket,
        loop: Loop,
        threads: Threads,
        dataplane: Dataplane,
    ) -> None:
        """``host_ip`` is canonical. ``connect`` gives it what talks to other nodes before ``run``."""
        self.settings = settings
        self.host_ip = host_ip
        self.loop = loop
        self.dataplane = dataplane
        self._source = source
        self._control = control
        self._threads = threads
        self.known = AgentStatus()
        self.gateways = Gateways(settings.probe_misses, settings.probe_returns, last_slot=settings.marks.last_slot)
        self.reassignment = ReassignmentGuard()
        self.local = LocalAssignments(settings.interface)
        self.node_drain = NodeDrain(control.path.with_suffix(".drain"), threads.job, LOGGER.warning, loop.now)
        self._leave_file = LeaveFile(control.path, host_ip, LOGGER.warning)
        self.signatures = None if settings.keys is None else Signatures(settings.keys, LOGGER.warning)
        self.source_ports = SourcePorts(threads.job, LOGGER.warning, loop.now)
        #: What hears of pods from the container runtime; None where nothing does.
        self.plugin: Plugin | None = None
        self._told_slots = threading.BoundedSemaphore(MOST_TOLD)
        #: When words of other nodes about their pods are over, in whole seconds of the loop.
        self._told_over: set[int] = set()
        #: When the kernel was asked for this node's addresses, and their keys.
        self._own: tuple[float, frozenset[int | None]] = (-math.inf, frozenset())
        self.figures = ToldFigures(threads.job, dataplane.dropped_packets, loop.now)
        self._evaluator = Evaluator(follows=True)
        self._planner = Planner()
        #: Whether a first round of probes has told who is up.
        self._settled = False
        #: What the decision was made from last: namespaces, nodes, and who was offline.
        self._decided: tuple[object, object, set[str]] = (None, None, set())
        #: The objects as the source gave them last.
        self._given = ClusterState()
        #: The source is not read before, see ``_note_cost``; seconds of the loop.
        self._reads_from = 0.0
        self._read_pending = False
        self._pending_here: tuple[str, ...] = ()
        self._told_nodes: Mapping[str, HostSubnet] | None = None
        self._listens_since = loop.now()
        self._users_within = USERS_WITHIN * settings.probe_interval
        #: Whether an event came after which something must be applied.
        self._changed = False
        self._first_round = False
        self._look_pending = False
        #: Others' rules are not looked at before, see _note_hang; seconds of the loop.
        self._looks_from = 0.0
        #: The tool that hung last.
        self._hung = ""
        #: Whether what comes by the tunnel is dropped here: others had better use another node.
        self._blocked = False
        #: An address of this node among its pods: answers to it come by the way of answers to pods.
        self._back = ""
        self._claims: Claims
        self._prober: Prober
        self._starts: Starts
        self._standby: Standby | None = None
        self._keeps_connections = False
        self._moved_by_drain = 0
        #: The addresses that this node takes over, or is about to have taken over.
        self._stood_by_for: frozenset[str] = frozenset()
        #: The addresses of this node whose connections a standby has as well, and that standby.
        self._kept_elsewhere: Mapping[str, str] = {}
        self.handovers = Handovers()
        self.giving = Giving()
        self._early = EarlyChecks()
        self._pairs = Pairs({}, {})
        #: By address that this node takes over: the holder before, and until when it is listened to; seconds.
        self._former: dict[str, tuple[str, float]] = {}
        #: What was taken in a hurry since the last ``_apply``.
        self._in_hurry: set[str] = set()
        #: What this node took from holders that live and has not announced yet. They translate back what still comes to
        #: them, or pass it on to this node. Its own pods leave by them until then, and theirs by this node: else
        #: answers would come to a node by the other, which does not know them.
        self._unannounced: set[str] = set()
        self._users_found: AddressUsers | None = None
        #: Connections that went on here or by another node since the start, after their holder had gone.
        self.taken_over = 0
        self.led_elsewhere = 0
        self._read()

    def connect(self, prober: Prober, claims: Claims, standby: Standby | None = None) -> None:
        """Use these to talk to other nodes and to the link; without ``standby`` no connections are kept."""
        self._prober, self._claims, self._standby = prober, claims, standby
        self._starts = Starts(self._source, self.gateways, prober, self.loop, self._let_start)

    @property
    def heartbeats(self) -> Heartbeats:
        """Those of the loop and of the threads."""
        return self.loop.heartbeats

    def payload(self, pods: Collection[str]) -> dict[str, object]:
        """Return what other agents are told: of this node, and what the pods that they ask about are translated to;
        nothing of those that are translated to an address which this node has given away: who asks may mean to lead
        them here. Called from the prober's thread.
        """
        applied = self.dataplane.applied
        sources: dict[str, object] = {}
        if pods and applied:
            said = {pod: applied.translations.get(pod, "") for pod in pods}
            sources = {"pods": {pod: ip for pod, ip in said.items() if ip not in applied.lingering}}
        pending = list(self._pending_here)
        elsewhere = self.node_drain.draining or self._blocked or bool(self._stuck())
        drain = {"drain": phase.value} if (phase := self.drain_phase()) else {}
        takes = {"takes": True} if self._takes_pods else {}
        reply = {"ready": self.known.ready, "draining": elsewhere, **drain, "lacks": pending, **takes}
        return {**reply, "tunnel": applied is not None, **sources}

    def run(self) -> None:
        """Take over what is there, then follow objects and probes."""
        self._add_readers()
        self._take_over()
        # The objects stay for long; a full collection of garbage in a large cluster takes as long as a round of probes.
        gc.freeze()
        # Between two heartbeats lies one round.
        self._threads.start("prober", self._prober.run)
        now, settings = self.loop.now, self.settings
        if not self.dataplane.present():
            # A node that was just booted: until it is known who is up, pods with egress IPs send nothing.
            self._apply()
        # A first round of probes before the first change: what is up must not look down, nor the other way round.
        self._first_round = True
        self._wait(now() + self._prober.round_seconds() * (settings.probe_misses + 1.5))
        self._first_round = False
        self._settled = True
        self.gateways.assume_unknown_down()
        self._apply()
        self._make_way()
        self.loop.every(UNHEARD_EVERY, self._on_unheard)
        check = now() + CHECK_EVERY
        while not self.loop.stopping:
            dues = (self.local.next_try(), self.handovers.due(now()), self.giving.due())
            retry = min(due or check for due in dues)
            changed = self._wait(min(check, retry, self.node_drain.next_turn(now())))
            if changed or now() >= retry or self._drain_moved_on():
                self._apply()
                self._require_host_ip()
            if now() >= check:
                check = now() + CHECK_EVERY
                self.source_ports.count(self.local.assigned)
                self.figures.gather(self.local.assigned, self.source_ports, self.gateways.legs)
                self._verify()
                self._require_host_ip()
        self._prober.stop()
        if self._standby is not None:
            self._standby.stop()

    def _add_readers(self) -> None:
        # In this order in each turn: a status never tells what is known and not applied yet.
        self.loop.add_reader(self.dataplane.fileno(), self._on_tables)
        self.loop.add_reader(self.dataplane.network_fileno(), self._on_network)
        self.loop.add_reader(self._source.fileno(), self._on_objects)
        self.loop.add_reader(self._control.fileno(), self._on_control)

    def _wait(self, until: float) -> bool:
        """Turn the loop until something must be applied, not beyond ``until``; in the first round of probes until then.
        Return whether something must be applied.
        """
        self._changed = False
        while not self.loop.stopping and self.loop.now() < until:
            self.loop.turn(until)
            if self._changed and not self._first_round:
                return True
        return self._changed

    # Events

    def _on_tables(self) -> None:
        try:
            tampered = self.dataplane.tampered()
        except EgressRouterError as error:
            self._unknown(error)
            tampered = False
        if tampered:
            self._changed |= self._replace_tables()
        if self.dataplane.others_changed():
            self._look_soon()

    def _on_network(self) -> None:
        """Put back at once what somebody has changed of rules, routes and tunnel; an egress IP that went away from the
        interface is claimed again.
        """
        heard = self.dataplane.network_heard()
        if heard.parameters:
            self._look_soon()
        repaired = not heard.network or self._repair_network()
        lost = not heard.addresses.isdisjoint(self.local.assigned) and self._addresses_lost()
        self._changed |= lost or not repaired

    def _look_soon(self) -> None:
        """Look in a moment whether others are in the way: what they change comes in bursts."""
        if not self._look_pending and self.dataplane.applied is not None:
            self._look_pending = True
            self.loop.call_later(LOOK_AFTER, self._make_way)

    def _on_unheard(self) -> None:
        """Look at what comes without a notice, where it is there at all; what cannot be read is told by _make_way."""
        if self.loop.now() < self._looks_from:
            return
        try:
            changed = self.dataplane.unheard_changed()
        except EgressRouterError as error:
            self._note_hang(error)
            return
        if changed:
            self._look_soon()

    def _make_way(self) -> None:
        self._look_pending = False
        if self.loop.now() < self._looks_from:
            return
        self.heartbeats.beat(self.loop.name)
        try:
            done, blocked, others = self.dataplane.make_way()
            self._blocked, self.known.obstacles, self._hung = bool(blocked), blocked + others, ""
            for line in done:
                LOGGER.warning("%s", line)
            self.known.repairs += bool(done)
            before, self._back = self._back, self.dataplane.address_among_pods()
            if before and not self._back:
                self.gateways.forget_leg(Leg.BACK)
            self._prober.set_tunnel(self._tunnel_way())
        except EgressRouterError as error:
            self._note_hang(error)
            self.known.obstacles = [f"whether others let the tunnel through is not known: {error}"]

    def _on_objects(self) -> None:
        """Read at once what changes after a quiet moment or what a pod waits for, and what comes in a row together."""
        if not self._source.wait(0):
            return
        if self._source.urgent() or (self.loop.now() >= self._reads_from and not self._read_pending):
            self._read_now()
        elif not self._read_pending:
            self._read_pending = True
            self.loop.call_later(self._reads_from - self.loop.now(), self._read_now)

    def _read_now(self) -> None:
        self._read_pending = False
        started = self.loop.now()
        self._changed |= self._read()
        if not self._changed and not self._starts.waits:
            self._let_start()
        self._note_cost(started)

    def _note_cost(self, started: float) -> None:
        """Leave time between readings in proportion to what one, and what it brings about, costs."""
        now = self.loop.now()
        self._reads_from = max(self._reads_from, now + min(max(PAUSE_LEAST, PAUSE_TIMES * (now - started)), PAUSE_MOST))

    def _on_control(self) -> None:
        peer = self._control.accept()
        if peer is not None:
            dropped = self.loop.call_later(TIMEOUT, partial(self._drop, peer))
            self.loop.add_reader(peer.fileno(), partial(self._on_question, peer, dropped))

    def _on_question(self, peer: socket.socket, dropped: Timer) -> None:
        if self._first_round or not self._changed:
            dropped.cancel()
            self.loop.remove(peer.fileno())
            self._changed |= self._control.serve(peer, self, self._threads.task)

    def _drop(self, peer: socket.socket) -> None:
        self.loop.remove(peer.fileno())
        peer.close()

    def on_answers(self, answers: Mapping[str, Answer]) -> None:
        """Take in a round of probes; called from the prober's thread."""
        self.loop.post(lambda: self._probed(answers))

    def on_key(self, host_ip: str, key: str) -> None:
        """Take in the public key of another node; called from the prober's thread."""
        self.loop.post(lambda: self._key_heard(host_ip, key))

    def _key_heard(self, host_ip: str, key: str) -> None:
        try:
            self.dataplane.learn_key(host_ip, key)
        except EgressRouterError as error:
            # It is set with all else that differs, at the next check.
            LOGGER.error("the key of node %s is not in use yet: %s", host_ip, error)

    @property
    def _takes_pods(self) -> bool:
        """Whether what other nodes say of pods that start is heeded: only where the container runtime tells of them."""
        return self._source.takes_pods and self.plugin is not None and self.plugin.in_use

    def on_pods_told(self, host_ip: str, pods: Mapping[str, str]) -> None:
        """Take in what the agent of another node says of its pods that start; called from the prober's thread."""
        if self._takes_pods and self._told_slots.acquire(blocking=False):
            self.loop.post(lambda: self._pods_told(host_ip, pods))

    def _pods_told(self, host_ip: str, pods: Mapping[str, str]) -> None:
        self._told_slots.release()
        nodes = self.known.state.nodes.items()
        name = next((name for name, node in nodes if canonical_ip(node.host_ip) == host_ip), "")
        if not name or name == self.settings.node:
            return
        try:
            own = self._own_addresses()
        except EgressRouterError as error:
            LOGGER.warning("what node %s says of its pods is left to the API: %s", name, error)
            return
        # Nobody gives this node's own packets an egress IP.
        pods = {ip: said for ip, said in pods.items() if address_key(ip) not in own}
        if self._source.pods_told(name, pods, signed=self.signatures is not None):
            # Read again when its word is over, whether the API has told of the pods by then or not.
            over = math.ceil(self.loop.now() + COUNTS)
            if over not in self._told_over:
                self._told_over.add(over)
                self.loop.call_later(over - self.loop.now(), partial(self._told_is_over, over))

    def _own_addresses(self) -> frozenset[int | None]:
        """Return the keys of this node's addresses; the same is said again and again, and the kernel is asked once."""
        asked_at, own = self._own
        if self.loop.now() - asked_at > OWN_EVERY:
            own = frozenset(address_key(str(one.address.ip)) for one in self.dataplane.addresses())
            self._own = (self.loop.now(), own)
        return own

    def _told_is_over(self, over: int) -> None:
        self._told_over.discard(over)
        self._read_now()

    def on_translated(self, pods: Collection[str]) -> None:
        """Take in that a holder translates pods that it was told of; called from the prober's thread."""
        self.loop.post(lambda: self._starts.translated(pods))

    def _let_start(self, everywhere: bool = True) -> None:
        """Let the pod start that has waited, also for its holders (not ``everywhere``: in vain)."""
        if self.dataplane.applied is not None and not self.known.errors:
            self._source.in_place(everywhere=everywhere)

    def on_duplicate_check(self, reasons: Mapping[str, str]) -> None:
        """Take in which addresses are free (no reason), and why others cannot be claimed; called from a thread."""
        self.loop.post(lambda: self._claims_checked(reasons))

    def _probed(self, answers: Mapping[str, Answer]) -> None:
        changed, messages = self.gateways.probed(answers)
        for text in messages:
            LOGGER.info("%s", text)
        for name, answer in answers.items():
            changed |= self._sources_heard(name, answer.sources)
        changed |= bool(self._arrivals())
        self._changed |= changed
        self._look_ahead()
        self._announce_of_the_dead()

    def on_replied(self, name: str, reply: Reply) -> None:
        """Take in at once what a node says about pods; called from the prober's thread."""
        self.loop.post(lambda: self._replied(name, reply))

    def _replied(self, name: str, reply: Reply) -> None:
        lacking = self.gateways.said(name, reply.pending)
        self._changed |= self._sources_heard(name, reply.sources) or lacking

    def _sources_heard(self, name: str, sources: Mapping[str, str]) -> bool:
        """Take in what a node translates pods to; return whether anything follows from it."""
        changed, now = self.reassignment.on_reply(name, sources), self.loop.now()
        for ip in set(sources.values()):
            changed |= self.handovers.heard(ip, name)
            changed |= self.giving.taken(ip, name, now)
        return changed

    def _look_ahead(self) -> None:
        """Ask who has the addresses that this node stands by for while their holders are silent: nobody has to wait for
        that when the controller sees it, too.
        """
        missing = self.gateways.missing(SILENT)
        silent = {ip for ip, holder in self._pairs.others.items() if holder in missing}
        if silent or self._early:
            self._claims.check(self._early.due(silent, self.loop.now()), silent)

    def _claims_checked(self, reasons: Mapping[str, str]) -> None:
        for ip, reason in reasons.items():
            self._claim_checked(ip, reason)

    def _claim_checked(self, ip: str, reason: str) -> None:
        self._early.answered(ip, free=not reason, now=self.loop.now())
        wanted = ip in self._wanted_claims()
        if reason and not wanted:
            # Asked early: its holder is silent to this node alone.
            return
        if reason:
            self.local.duplicate_found(ip, reason, self.loop.now(), hurried=ip in self._stood_by_for)
            LOGGER.warning("%s is not claimed: %s", ip, reason)
            # It may have been taken in a hurry.
            self.local.assigned -= {ip}
            self._changed = True
            return
        self.local.no_duplicate(ip)
        if not wanted or ip in self.local.assigned:
            # Asked early, and the answer to the question before was enough.
            return
        try:
            # Before anything of them can come here: what comes of no connection is refused, which ends it.
            given = self._is_given(ip)
            self._restore(ip, own=False)
            if not given:
                self._restore(ip, own=True)
            self.dataplane.add(ip)
        except EgressRouterError as error:
            self.on_duplicate_check({ip: str(error)})
            return
        self.local.assigned |= {ip}
        self.giving.is_back(ip)
        if given or ip in self._stood_by_for:
            self._in_hurry.add(ip)
        self._unannounced = self._unannounced | {ip} if given else self._unannounced - {ip}
        LOGGER.info("%s is on %s", ip, self.settings.interface)
        self._changed = True

    # What is desired

    def _read(self) -> bool:
        try:
            state, self.known.problems = self._source.read()
        except OSError as error:
            self.known.problems = (Problem("state", None, "", f"cannot be read: {error.strerror}"),)
            return False
        given, self._given = self._given, state
        if state.nodes is given.nodes and state.assignment is given.assignment:
            # Pods come and go all the time, nodes do not.
            state = replace(state, nodes=self.known.state.nodes)
        else:
            state = with_recorded_assignment(state)
        before, self.known.state = self.known.state, state
        if before == state:
            return False
        self._pairs = pairs_of(self.settings.node, state)
        # Here and not with each decision: health changes the decision, and never whose address a pod's is.
        self.reassignment.follow(self.settings.node, state, self.known.decision)
        return True

    def _take_over(self) -> None:
        """Keep the slots, the addresses and the gateways in use that an agent before this one has left."""
        self.local.assigned = self.dataplane.adopt()
        slots = self.dataplane.slots_before({n: h.host_ip for n, h in self.known.state.nodes.items()})
        self.gateways.slots = slots
        used, alive = self.dataplane.gateways_before()
        self._decide()
        self.gateways.adopt(slots, used, alive)

    def _draining(self) -> frozenset[str]:
        """Return the nodes that are used where there is no other."""
        return self.gateways.in_state(Health.DRAINING) | ({self.settings.node} if self.node_drain.draining else set())

    def _decide(self) -> set[str]:
        """Bring the decision, the probed nodes and their slots up to date; return the nodes that counted as offline."""
        evaluator, known = self._evaluator, self.known
        old = known.decision
        state = known.state
        offline = self.gateways.offline()
        decided = (state.namespaces, state.nodes, offline)
        if self._decided[0] is not decided[0] or self._decided[1] is not decided[1] or self._decided[2] != offline:
            evaluator.update(
                {**dict.fromkeys(old.namespaces.keys() - state.namespaces.keys()), **state.namespaces},
                {**dict.fromkeys(old.nodes.keys() - state.nodes.keys()), **state.nodes},
                offline,
            )
            known.decision = evaluator.decision()
            self._decided = decided
        now = self.loop.now()
        wanted = wanted_here(self.settings.node, state) if state.standbys or self.handovers else ()
        down = self.gateways.in_state(Health.DOWN)
        self.handovers.follow(wanted, self._holders(), state.standbys, down, now)
        # Whether who gave an address to this node lives is asked until that is announced, and who is given one is asked
        # whether it has it.
        former = {name for name, _ in self._former.values()}
        given = {*self._kept_elsewhere.values(), *self.giving.awaited().values()}
        partners = {*self._pairs.mine.values(), *self._pairs.others.values(), *former, *given}
        self.gateways.follow(self.settings.node, state, known.decision, partners | self.handovers.awaited(now))
        self._set_targets()
        return offline

    def _holders(self) -> dict[str, str]:
        return {ip: name for name, held in self.known.decision.nodes.items() for ip in held.claims}

    def _follow_standbys(self) -> None:
        """Have the connections of the addresses here kept by their standbys, and keep those of others."""
        if self._standby is None:
            return
        state, now, pairs = self.known.state, self.loop.now(), self._pairs
        mine = self.known.decision.nodes.get(self.settings.node)
        claims = set(mine.claims) if mine else set()
        due = claims - self.local.assigned
        self._kept_elsewhere = {ip: name for ip, name in pairs.mine.items() if ip in self.local.assigned}
        # Who gives an address away while it lives tells of what begins until this node has it.
        self._former = {
            **{ip: known for ip, known in self._former.items() if ip in claims and now < known[1]},
            **{ip: (self._former[ip][0], now + LINGER) for ip in due & self._former.keys()},
            **{ip: (name, now + LINGER) for ip, name in pairs.others.items()},
        }
        address = {name: canonical_ip(node.host_ip) for name, node in state.nodes.items()}
        told = {**self._kept_elsewhere, **self.giving.awaited()}
        to = {ip: address[name] for ip, name in told.items() if name in address}
        come_from = {ip: address[name] for ip, (name, _) in self._former.items() if name in address}
        self._stood_by_for = frozenset(pairs.others) | (self._stood_by_for & due)
        self._standby.follow(to, come_from, due)
        if not self._keeps_connections and not self._standby.idle:
            self._keeps_connections = True
            self._threads.start("standby", self._standby.run)

    def _restore(self, ip: str, *, own: bool) -> None:
        """Make the connections of an address that this node takes over: those of pods that may leave with it, either of
        this node's ``own`` or of others.
        """
        records = self._standby.kept(ip) if self._standby is not None else frozenset()
        if not records:
            return
        allowed = self._address_users().sole(ip)
        local, refused = {packed for packed, node in allowed.items() if node == self.settings.node}, ""
        some = local if own else allowed.keys() - local
        wanted = [record for record in records if source_of(record) in some]
        for start in range(0, len(wanted), MADE_AT_ONCE):
            self.heartbeats.beat(self.loop.name)
            refused = self.dataplane.restore(wanted[start : start + MADE_AT_ONCE], local) or refused
        self.taken_over += len(wanted)
        strangers = sum(source_of(record) not in allowed for record in records)
        whose = "this node's" if own else "other nodes'"
        LOGGER.info(
            "%s: %d connections of %s pods go on here, %d are of no pod any more", ip, len(wanted), whose, strangers
        )
        if refused:
            LOGGER.warning("%s: some of them do not: %s", ip, refused)

    def _give(self, given_up: Collection[str]) -> list[bytes]:
        """Go on translating to addresses that this node has given to their standbys. Return the connections of this
        node's pods that leave with others, which further nodes are to have now.
        """
        holders = self._holders()
        moved = [ip for ip in given_up if holders.get(ip) and ip in self._kept_elsewhere]
        if moved:
            users = self._address_users()
            to = {ip: holders[ip] for ip in moved if holders[ip] == self._kept_elsewhere[ip] and users.sole(ip)}
            self.giving.begin(to, self.loop.now())
        self.giving.follow(self.settings.node, holders, self.loop.now())
        if not moved:
            return []
        records = self.dataplane.open_with(moved)
        if self.node_drain.draining:
            self._moved_by_drain += len(records)
        return self._connections_of_own(records, [ip for ip in moved if ip not in self.giving.translated()])

    def _connections_of_own(self, records: Collection[bytes], ips: Collection[str]) -> list[bytes]:
        """Return those of this node's pods that may leave with these addresses. A flow of datagrams finds the tunnel by
        itself.
        """
        mine = {ip_address(text).packed for ip in ips for text in self._pods_of(ip)}
        return [record for record in records if record[0] in CONNECTED and source_of(record) in mine]

    def _go_on_elsewhere(self, records: Collection[bytes]) -> None:
        """Have connections of this node's pods, which it translated until now, go by the tunnel to who has their
        address: before a reply of that node's comes here, which would be one of no connection.
        """
        slots, holders = self.gateways.slots, self._holders()
        by_slot: dict[int, list[bytes]] = {}
        for record in records:
            slot = slots.get(holders.get(str(ip_address(translated_of(record))), ""))
            if slot is not None:
                by_slot.setdefault(slot, []).append(record)
        for slot, some in by_slot.items():
            refused = self.dataplane.go_on_by(some, slot)
            self.led_elsewhere += len(some)
            LOGGER.info("%d connections of pods here go on by another node%s", len(some), refused and f": {refused}")

    def _arrivals(self) -> list[Arrival]:
        """Return the addresses that their standbys have now."""
        me = self.settings.node
        if not self._expected():
            return []
        holders, lacking = self._holders(), self.pending()
        carrying = {*self.gateways.in_state(Health.UP, Health.DRAINING), me}
        ready: dict[str, set[str]] = {}
        for ip, name in holders.items():
            if name in carrying and ip not in lacking:
                ready.setdefault(name, set()).add(ip)
        for ip in ready.get(me, set()) - self._unannounced:
            self.handovers.heard(ip, me)
        return self.handovers.arrivals(ready)

    def _lead_arrived(self) -> None:
        """Lead the connections of addresses that their standbys have now there."""
        slots = self.gateways.slots
        for arrival in self._arrivals():
            if arrival.old == self.settings.node:
                records = self.dataplane.open_with([arrival.ip])
                self._go_on_elsewhere(self._connections_of_own(records, [arrival.ip]))
            elif arrival.old in slots and arrival.new in slots:
                pods = self._pods_of(arrival.ip)
                count = self.dataplane.lead_to(pods, slots[arrival.old], slots[arrival.new])
                self.led_elsewhere += count
                LOGGER.info("%s: %d connections go on by %s", arrival.ip, count, arrival.new)
            self.handovers.settled(arrival, self.known.state.standbys.get(arrival.ip, ""))
            # What is left of the former holder goes with the next change, once this one is in place.
            self.loop.post(self._note_change)

    def _is_given(self, ip: str) -> bool:
        """Return whether the former holder of an address that this node stood by for lives."""
        return self._former_holder(ip) in self.gateways.in_state(Health.UP, Health.DRAINING)

    def _former_holder(self, ip: str) -> str:
        """Return the node that had an address before this one took it over; empty when there was none."""
        return self._former.get(ip, ("", 0.0))[0]

    def _announce_later(self, ips: Collection[str], until: float) -> None:
        """Tell the link of addresses that their holders gave to this node, and have this node's pods leave with them
        here; once pods of the holders leave by this node, at the latest at ``until``.
        """
        senders, nodes, users = self._prober.users(self._users_within), self.known.state.nodes, self._address_users()
        due, waits = self._unannounced & set(ips), set()
        for ip in due:
            holder = self._former_holder(ip)
            sends = holder in nodes and canonical_ip(nodes[holder].host_ip) in senders
            if self.loop.now() < until and self._is_given(ip) and not sends and users.on(holder, ip):
                waits.add(ip)
        if waits:
            self.loop.call_later(LOOK_AGAIN, partial(self._announce_later, waits, until))
        for ip in due - waits:
            self._unannounced -= {ip}
            if ip not in self.local.assigned:
                continue
            try:
                self._restore(ip, own=True)
            except EgressRouterError as error:
                LOGGER.warning("%s: connections of pods here do not go on: %s", ip, error)
            self._claims.answered |= {ip}
            self._claims.announce([ip])
        self._changed = True

    def _announce_of_the_dead(self) -> None:
        """Announce at once what is in place here, and whose holder died after it had given it away: there is nobody to
        wait for.
        """
        applied = self.dataplane.applied
        here = self._unannounced & applied.assigned if applied is not None else set()
        if dead := {ip for ip in here if not self._is_given(ip)}:
            self._announce_later(dead, self.loop.now())

    def _say_taken(self) -> None:
        """Have those who wait for what was taken in a hurry hear of it, and ask once more who has it."""
        taken, self._in_hurry = self._in_hurry & self.local.assigned, set()
        if not taken:
            return
        self._claims.look_again(taken)
        if later := taken & self._unannounced:
            until = self.loop.now() + ANNOUNCED_AFTER_MOST
            self.loop.call_later(ANNOUNCED_AFTER, partial(self._announce_later, later, until))
        users, nodes = self._address_users(), self.known.state.nodes
        names = {name for ip in taken for name in users.everywhere(ip).values()}
        names |= {self._former_holder(ip) for ip in taken}
        names &= nodes.keys() - {self.settings.node}
        self._prober.have_asked([canonical_ip(nodes[name].host_ip) for name in sorted(names)])

    def _note_change(self) -> None:
        self._changed = True

    def _pods_of(self, ip: str) -> set[str]:
        """Return the addresses of this node's pods that may leave with an egress IP."""
        return self._address_users().on(self.settings.node, ip)

    def _address_users(self) -> AddressUsers:
        if self._users_found is None or not self._users_found.are_of(self.known.state):
            self._users_found = AddressUsers(self.known.state)
        return self._users_found

    def _set_targets(self) -> None:
        nodes = self.known.state.nodes
        if nodes is not self._told_nodes:
            self._told_nodes = nodes
            self._prober.set_peers(frozenset(canonical_ip(node.host_ip) for node in nodes.values()))
        # Who is to have an address is asked at the full rate whether it has it.
        up = self.gateways.in_state(Health.UP) - self._expected()
        targets = {name: nodes[name].host_ip for name in self.gateways.health}
        self._prober.set_targets(targets, self._used(), up, self._queries())
        self._prober.set_tunnel(self._tunnel_way())

    def _queries(self) -> dict[str, list[str]]:
        """Return which pods each node is asked about: of each address that it is to have, some that it shall translate
        to it.
        """
        found = {name: list(pods) for name, pods in self.reassignment.pending_queries().items()}
        applied = self.dataplane.applied
        doubtful = set(applied.duplicate_pod_ips) if applied else set()
        waiting = {ip: standby for ip, (_, standby) in self.handovers.waiting(self.loop.now()).items()}
        for ip, standby in {**waiting, **self.giving.awaited()}.items():
            users = self._address_users()
            pods = sorted((users.on(self.settings.node, ip) or users.everywhere(ip).keys()) - doubtful)
            if standby != self.settings.node:
                found.setdefault(standby, []).extend((*pods[:1], *pods[1:][-1:]))
        return {name: pods for name, pods in found.items() if pods}

    def _expected(self) -> set[str]:
        """Return the nodes that are to take an address over."""
        return {standby for _, standby in self.handovers.waiting(self.loop.now()).values()}

    def _tunnel_way(self) -> TunnelWay | None:
        """Return how probes get through the tunnel; None as long as that is not in place."""
        if self.dataplane.applied is None:
            return None
        mark_of, gateways = self.settings.marks.mark_of, self.dataplane.applied.probed
        marks = {gateway.node: mark_of(gateway.slot) for gateway in gateways}
        return TunnelWay(TUNNEL, marks, self._back, self.dataplane.tunnel_mtu)

    def _used(self) -> frozenset[str]:
        """Return the nodes that this node sends new connections to, as applied."""
        applied = self.dataplane.applied
        if applied is None:
            return frozenset(self.gateways.health)
        in_use = set(applied.paths.values())
        return frozenset(gateway.node for gateway in applied.gateways if Remote(gateway.slot) in in_use)

    def _wanted_claims(self) -> list[str]:
        """Return the egress IPs that this node shall have and its interface can have."""
        me = self.known.decision.nodes.get(self.settings.node)
        host = self.known.state.nodes.get(self.settings.node)
        if me is None or host is None or not me.claims:
            return self.local.fitting((), "", ())
        return self.local.fitting(me.claims, canonical_ip(host.host_ip), self.dataplane.addresses())

    def _node_state(self) -> NodeState:
        state, me, giving = self.known.state, self.settings.node, self.giving.translated()
        former = self.handovers.kept_by(self.gateways.in_state(Health.DOWN))
        former = {ip: name for ip, name in former.items() if name != me or ip in giving}
        decision = self.known.decision
        if former:
            users = self._address_users()
            decision = kept_by(decision, former, set().union(*map(users.namespaces, former)))
        inputs = PlanInputs(
            me,
            state.namespaces,
            state.nodes,
            decision,
            self.gateways.alive(),
            self.local.assigned,
            frozenset(self.pending() - former.keys()),
            self._draining(),
            dict(self.reassignment.unconfirmed),
            self._settled,
            self.gateways.unheard(),
            self.gateways.silent() if self.reassignment.unconfirmed else frozenset(),
            giving,
        )
        planned = self._planner.plan(inputs, state.pods, self._arp_suppressed(), self.gateways.slots)
        return self._with_waiting(planned)

    def _with_waiting(self, planned: NodeState) -> NodeState:
        """Return the state in which connections to holders that are gone wait for the standbys, and neither those to
        holders that have given an address away are cut before its standby has it, nor those that lead there by then.
        """
        waiting = self.handovers.waiting(self.loop.now())
        lacking = self.gateways.pending(self.known.decision) & self.handovers.leads().keys()
        if not waiting and not lacking:
            return planned
        alive, slots = self.gateways.alive(), self.gateways.slots
        gone = {ip: slots[name] for ip, (name, _) in waiting.items() if name not in alive and name in slots}
        awaited = frozenset(gone.values())
        # Who has another address of such a holder, which nobody takes over, does not wait.
        translating = {pod: found - awaited for pod, found in planned.translating_nodes.items()}
        for ip, slot in gone.items():
            for pod in self._pods_of(ip):
                translating[pod] = translating.get(pod, frozenset()) | {slot}
        for ip, (name, _) in waiting.items():
            for pod in self._pods_of(ip) & translating.keys() if name in alive else ():
                translating[pod] |= {slots[name]}
        for ip in lacking:
            # A standby may say that it has all before it has heard that it is to have this one, too.
            name = self.handovers.leads()[ip]
            for pod in self._pods_of(ip) & translating.keys() if name in alive else ():
                translating[pod] |= {slots[name]}
        return replace(planned, awaited=awaited, translating_nodes=translating)

    def _arp_suppressed(self) -> frozenset[str]:
        """Return the addresses that are not answered for any more."""
        return self.local.assigned if self.drained() else frozenset()

    def pending(self) -> set[str]:
        """Return the egress IPs that the nodes which shall have them do not have yet, this node among them."""
        me = self.known.decision.nodes.get(self.settings.node)
        return self.gateways.pending(self.known.decision) | (set(me.claims) - self.local.assigned if me else set())

    # What is done about it

    def _apply(self) -> None:
        """Decide and put it in place. A failure is logged, and tried again at the next check."""
        started = self.loop.now()
        # Two in a row may each wait for a tool that hangs, for as long as tools may.
        self.heartbeats.beat(self.loop.name)
        known, local = self.known, self.local
        try:
            offline = self._decide()
            if self.gateways.offline() != offline:
                # Gateways that are new were counted as online; their health counts from now on.
                self._decide()
            wanted = set(self._wanted_claims())
            before = local.assigned
            due = local.due_for_check(wanted, started)
            leaving = self._give(before - local.assigned)
            self._claims_checked({ip: "" for ip in due if self._early.is_free(ip, started)})
            self._claims.check(due - local.assigned, self._stood_by_for)
            state = self._node_state()
            # Nor is it called back by announcements that go on from the last time it was here.
            answered = state.assigned - state.arp_suppressed - self._unannounced
            fresh = answered - self._claims.answered
            self._claims.answered = answered
            # Before an address is answered for: whatever happens next, a shutdown has to end that.
            self._leave_file.keep(state.assigned)
            self._follow_standbys()
            # Holders put it in place meanwhile.
            waits = self._starts.tell(state, self.settings.node, known.state.pods)
            self.dataplane.apply(state)
            if not waits:
                self._source.in_place()
            self._claims.announce(fresh)
            self._say_taken()
            self._lead_arrived()
            self._go_on_elsewhere(leaving)
            self._set_targets()
            if known.errors:
                # Everything was made anew.
                known.errors, self._hung = [], ""
            self._pending_here = local.pending(wanted)
            ready = local.complete(wanted)
            if ready and not known.ready:
                LOGGER.info("ready")
            known.ready = ready
            known.applies += 1
        except EgressRouterError as error:
            known.errors = [str(error)]
            self._note_hang(error)
            known.failed_applies += 1
            LOGGER.error("not applied: %s", error)
            self.dataplane.forget()
        known.apply_seconds += self.loop.now() - started
        self._note_cost(started)

    def _verify(self) -> None:
        """Put back what somebody has taken away, and try again what has failed."""
        if self.dataplane.applied is not None and not self.known.errors:
            self._repair_network()
            self._addresses_lost()
            try:
                present = self.dataplane.present()
            except EgressRouterError as error:
                self._unknown(error)
                return
            if not present:
                self._replace_tables()
        self._apply()
        self._make_way()

    def _unknown(self, error: EgressRouterError) -> None:
        """Note that nobody knows what the tables are: the next check makes them anew."""
        self._note_hang(error)
        self.known.errors = [f"whether the tables are in place is not known: {error}"]
        LOGGER.error("%s", self.known.errors[0])
        self.dataplane.forget()

    def _note_hang(self, error: EgressRouterError) -> None:
        """Have what can wait not hang in the same tool again and again, while nobody hears anything."""
        if isinstance(error, ToolHangs):
            self._hung = " ".join(error.command)
            self._looks_from = self.loop.now() + HANG_PAUSE

    def _repair_network(self) -> bool:
        """Put back rules, routes and tunnel; return whether they are in place. If not, the next ``_apply`` replaces
        everything.
        """
        now = self.loop.now()
        try:
            if self.dataplane.repair(now):
                self.known.repairs += 1
        except EgressRouterError as error:
            LOGGER.error("what somebody has changed cannot be put back: %s", error)
            self.dataplane.forget()
            return False
        self.known.tampering = self.dataplane.tampering(now)
        return True

    def _addresses_lost(self) -> bool:
        """Note which egress IPs went away from the interface; return whether there are any."""
        lost = self.local.assigned - self.dataplane.addresses_on_link()
        if lost:
            LOGGER.warning("%s went away; claimed again", ", ".join(sorted(lost)))
            self.local.assigned -= lost
            self.known.repairs += 1
        return bool(lost)

    def _replace_tables(self) -> bool:
        """Have the next ``_apply`` make the tables anew; return whether there is anything to make anew."""
        if self.dataplane.applied is None:
            return False
        LOGGER.warning(
            "somebody changed or deleted the tables, or the guard of the boot came back; they are made again"
        )
        self.dataplane.forget()
        self.known.repairs += 1
        return True

    def _drain_moved_on(self) -> bool:
        """Count who still uses this node's addresses; return whether ARP for them is to be suppressed, or no more."""
        self.node_drain.count(self.local.assigned, self.loop.now())
        applied = self.dataplane.applied
        return applied is not None and applied.arp_suppressed != self._arp_suppressed()

    def _require_host_ip(self) -> None:
        host = self.known.state.nodes.get(self.settings.node)
        if host is not None:
            require_host_ip(self.host_ip, host.host_ip, self.dataplane.observed)

    # What others ask

    def reasons(self, now: float) -> list[str]:
        """Return why the node is not ready."""
        reasons = [*self.known.errors, *filter(None, [self.known.tampering, self._stuck()])]
        if not self.known.ready and not reasons:
            reasons.append(f"not claimed yet: {', '.join(self._pending_here) or 'the first round of probes runs'}")
        return reasons

    def drain(self, grace: float, *, by_api: bool = False) -> None:
        """Start a drain; wait for connections for so many seconds from now. ``by_api``: see NodeDrain.start."""
        if not self.node_drain.draining:
            # A node that has just begun to send here has not said so yet.
            self._listens_since = self.loop.now()
            self._moved_by_drain = 0
        self.node_drain.start(grace, by_api=by_api)
        self._changed = True

    def undrain(self) -> None:
        """Take traffic again."""
        self.node_drain.end()
        self._changed = True

    def users(self) -> list[str]:
        """Return the addresses of the nodes that send traffic here, and this one's if its own pods leave by it."""
        applied = self.dataplane.applied
        own = applied is not None and Direct.LOCAL_GATEWAY in applied.paths.values()
        return sorted({*self._prober.users(self._users_within), *({self.host_ip} if own else ())})

    def handed_over(self) -> bool:
        """Return whether nothing new leaves with this node's addresses any more."""
        return not self.users() and self._all_have_asked()

    def _all_have_asked(self) -> bool:
        """Return whether every node that sends traffic here has asked since a drain began, and so has heard of it."""
        return self.loop.now() - self._listens_since > self._prober.listening(self._users_within)

    def drain_phase(self) -> DrainPhase:
        """Return how far a drain is. What standbys keep need not be waited for: it goes on there."""
        phase = self.node_drain.phase(self.loop.now(), heard=self._all_have_asked())
        return DrainPhase.OVER if phase is DrainPhase.WAITS and self._all_kept() else phase

    def _all_kept(self) -> bool:
        """Return whether standbys have the connections of every address here."""
        nodes, standbys, figures = self.known.state.nodes, self.known.state.standbys, self.standby_figures
        names = {standbys.get(ip, "") for ip in self.local.assigned & self._kept_elsewhere.keys()}
        if not names or not self.local.assigned <= self._kept_elsewhere.keys() or not names <= nodes.keys():
            return False
        return all(figures.in_step(canonical_ip(nodes[name].host_ip)) for name in names)

    def _leaving_addresses(self) -> frozenset[str]:
        """Return the egress IPs that the controller has given to this node and is to give to others, in a drain."""
        if not self.node_drain.moves(self.drain_phase(), self.loop.now()):
            return frozenset()
        return self.local.assigned & frozenset(self.known.state.assignment.get(self.settings.node, ()))

    def drained(self) -> bool:
        """Return whether a drain is done: no node sends anything new here, no connection is waited for, and no address
        goes to another node any more.
        """
        return self.node_drain.over(self.loop.now()) and self.handed_over() and not self._leaving_addresses()

    def _stuck(self) -> str:
        """Return that a tool hangs, or did when it was needed last; empty when none does. Called from any thread."""
        command = slow_tool(HANGS_AFTER) or self._hung
        if not command:
            return ""
        return (
            f"`{command}` hangs: what changes is not put in place. Other nodes use other holders, where there are; "
            "pods of this node keep their way, whatever becomes of its holder"
        )

    def _drain_status(self) -> dict[str, object] | None:
        if (until := self.node_drain.until) is None:
            return None
        seconds, left = max(0.0, until - self.loop.now()), self.node_drain.left
        held, leaving = self.local.assigned, self._leaving_addresses()
        found = drain_status(self.known, held, self._draining(), left, seconds, self.drained(), leaving)
        return {**found, "moved": self._moved_by_drain}

    def status(self) -> dict[str, object]:
        """Return all that the status shows, as plain data."""
        legs = self.gateways.leg_problems(self.settings, self.dataplane.tunnel_mtu, self._back)
        return node_status(
            self.settings.node,
            self.known,
            self.gateways,
            self.local,
            self.dataplane.applied or NodeState(),
            self.users(),
            self.pending(),
            self.dataplane.dropped_packets(),
            self._drain_status(),
            [
                *filter(None, [self._stuck(), self._runtime_trouble(), self._standby_trouble()]),
                *legs,
                *self.source_ports.problems(),
            ],
            unconfirmed=self.reassignment.doubted(self.gateways.health),
            standby=self._standby_status(),
            tells_of_pods=self.plugin is not None and self.plugin.connected,
        )

    def _runtime_trouble(self) -> str:
        """Return that the container runtime does not tell of pods, though it did or shall; empty when all is well."""
        trouble = self.plugin.trouble if self.plugin is not None else ""
        if not trouble:
            return ""
        return (
            f"the container runtime does not tell of pods ({trouble}): what they send before the API shows their "
            "addresses is dropped"
        )

    def _standby_trouble(self) -> str:
        """Return why connections are not kept, empty when nothing is wrong."""
        figures = self.standby_figures
        if figures.error:
            return f"connections are not kept by standbys: {figures.error}"
        if figures.kept >= MOST_KEPT:
            return (
                f"{figures.kept} connections are kept for other holders, and none beyond: those end with their holder"
            )
        return ""

    def _standby_status(self) -> dict[str, object]:
        state, me = self.known.state, self.settings.node
        held = {ip: node for ip, node in state.standbys.items() if ip in self.local.assigned}
        by_holder = {ip: name for name, ips in state.assignment.items() for ip in ips}
        spare = {ip: by_holder.get(ip, "") for ip, node in state.standbys.items() if node == me}
        return standby_status(held, spare, self.standby_figures, self.taken_over, self.led_elsewhere)

    @property
    def standby_figures(self) -> Figures:
        """What became of the connections that are kept for others, or by them."""
        return Figures() if self._standby is None else self._standby.figures
