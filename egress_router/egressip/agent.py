"""The agent of one node: objects and probes in, kernel state out."""

from __future__ import annotations

import os
import queue
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from egress_router.egressip.claims import Claimer
from egress_router.egressip.control import ControlSocket
from egress_router.egressip.health import Health, HolderHealth
from egress_router.egressip.node_apply import NodeKernel
from egress_router.egressip.source import ClusterSource
from egress_router.errors import ConfigurationError, EgressRouterError, PlatformError, Problem
from egress_router.kernel.netlink import Netlink
from egress_router.kernel.node_probe import CALM_ROUNDS, Answer, Prober
from egress_router.kernel.node_tables import held_before, present, ways_before
from egress_router.kernel.node_watch import TableWatch
from egress_router.kernel.observe import observe
from egress_router.model.address_keys import address_key, address_text
from egress_router.model.egressip import ClusterState, Decision, Disposition
from egress_router.model.network import Link
from egress_router.model.node import NodeSettings, NodeState
from egress_router.plan.egressip.decision import Evaluator
from egress_router.plan.egressip.node_plan import assign_slots, node_plan
from egress_router.plan.egressip.recorded import with_recorded_assignment

#: How often the kernel is looked at although nothing happened; seconds.
CHECK_EVERY = 5.0
#: An address that another machine has is tried again after so long, then twice as long, at most the other; seconds.
#: The machine before us may be giving it up this moment.
RETRY_CLAIM, RETRY_CLAIM_MOST = 0.3, 10.0
#: So many addresses fit a datagram; a node that lacks more is about to get them, or has other problems.
MOST_LACKED = 40
#: A node that asked within this many probe intervals is listened to in a hand-over.
USERS_WITHIN = 3 * CALM_ROUNDS


@dataclass(slots=True)
class View:
    """What the agent knows at a moment; the status shows it."""

    state: ClusterState = field(default_factory=ClusterState)
    decision: Decision = field(default_factory=lambda: Decision({}, {}, {}))
    problems: tuple[Problem, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    draining: bool = False
    ready: bool = False


class Agent:
    """Runs until ``stop`` is written to; leaves everything in place, so that the next one takes over without a gap."""

    def __init__(
        self, settings: NodeSettings, source: ClusterSource, control: ControlSocket, log: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._source = source
        self._control = control
        self._log = log
        self.view = View()
        self._evaluator = Evaluator()
        self._health: dict[str, HolderHealth] = {}
        self._slots: dict[str, int] = {}
        self._held: frozenset[str] = frozenset()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._events: queue.SimpleQueue[Callable[[], bool]] = queue.SimpleQueue()
        self._tables = TableWatch()
        self._stopping = False
        self._misfits: dict[str, str] = {}
        self._lacked: tuple[str, ...] = ()
        self._lacks: dict[str, frozenset[str]] = {}
        self._retries: dict[str, tuple[float, float]] = {}
        self._read()
        host = self.view.state.nodes.get(settings.node)
        if host is None:
            raise PlatformError(f"there is no HostSubnet {settings.node}; --node must name this node's object")
        self._host_ip = str(ip_address(host.host_ip))
        self._link = self._outside_link()
        self._kernel = NodeKernel(settings, self._host_ip, self._link, log)
        self._claimer = Claimer(self._link, lambda ip, reason: self.post(lambda: self._claim_checked(ip, reason)))
        self._prober = Prober(
            self._host_ip,
            settings.health_port,
            settings.probe_interval,
            self._answers,
            self._word,
        )

    def _word(self) -> dict[str, object]:
        """Return what other agents are told."""
        return {"ready": self.view.ready, "draining": self.view.draining, "lacks": list(self._lacked)}

    def _outside_link(self) -> Link:
        with Netlink() as netlink:
            link = observe(netlink).link(self._settings.interface)
        if link is None:
            raise PlatformError(f"there is no interface {self._settings.interface}; --interface names the outside one")
        return link

    def post(self, action: Callable[[], bool]) -> None:
        """Have the loop call ``action``, from any thread; True means that something must be applied."""
        self._events.put(action)
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return

    def stop(self) -> None:
        """Ask the loop to end; safe in a signal handler."""
        self._stopping = True
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return

    def run(self) -> None:
        """Take over what is there, then follow objects and probes."""
        self._take_over()
        self._prober.start()
        if not present():
            # A node that was just booted: until it is known who is up, pods with egress IPs send nothing.
            self._apply()
        # A first round of probes before the first change: what is up must not look down, nor the other way round.
        self._turn(
            until=time.monotonic() + self._settings.probe_interval * (self._settings.probe_misses + 1.5), gather=True
        )
        for health in self._health.values():
            if health.state is Health.UNKNOWN:
                health.state = Health.DOWN
        self._apply()
        check = time.monotonic() + CHECK_EVERY
        while not self._stopping:
            retry = min((at for at, _ in self._retries.values()), default=check)
            if self._turn(until=min(check, retry)) or time.monotonic() >= retry:
                self._apply()
            if time.monotonic() >= check:
                check = time.monotonic() + CHECK_EVERY
                self._verify()
        self._prober.stop()

    def _take_over(self) -> None:
        """Keep the slots, the addresses and the holders in use that an agent before this one has left."""
        observed = self._kernel.observed()
        on_link = {str(a.address.ip) for a in observed.addresses if a.interface == self._link.name}
        self._held = frozenset(held_before() & on_link)
        self._kernel.adopt(self._held)
        self._slots = self._kernel.slots_before({n: h.host_ip for n, h in self.view.state.nodes.items()})
        used = ways_before()
        self._decide()
        for name, slot in self._slots.items():
            if f"to_{slot}" in used and name in self._health:
                self._health[name].state = Health.UP

    def _turn(self, until: float, *, gather: bool = False) -> bool:
        """Wait for the next thing to happen, not beyond ``until``, and take in all of it; with ``gather`` go on until
        then.
        """
        changed = False
        while not self._stopping:
            left = until - time.monotonic()
            if left <= 0:
                return changed
            fds = [self._source.fileno(), self._wake_read, self._control.fileno(), self._tables.fileno()]
            readable = select.select(fds, [], [], left)[0]
            if self._wake_read in readable:
                os.read(self._wake_read, 65536)
            while not self._events.empty():
                changed |= self._events.get()()
            if self._tables.fileno() in readable and self._tables.table_deleted():
                changed |= self._tables_gone()
            if self._source.fileno() in readable and self._source.wait(0):
                changed |= self._read()
            # Questions wait until what is known is applied, so that a status never tells what is not yet so.
            if self._control.fileno() in readable and (gather or not changed):
                changed |= self._control.serve(self)
            if changed and not gather:
                return True
        return changed

    def _read(self) -> bool:
        try:
            state, self.view.problems = self._source.read()
        except OSError as error:
            self.view.problems = (Problem("state", None, "", f"cannot be read: {error.strerror}"),)
            return False
        state = with_recorded_assignment(state)
        before, self.view.state = self.view.state, state
        return before != state

    def _decide(self) -> None:
        """Bring the decision, the probed nodes and their slots up to date."""
        evaluator, view = self._evaluator, self.view
        old = view.decision
        state = view.state
        evaluator.update(
            {**dict.fromkeys(old.namespaces.keys() - state.namespaces.keys()), **state.namespaces},
            {**dict.fromkeys(old.nodes.keys() - state.nodes.keys()), **state.nodes},
            self._offline(),
        )
        view.decision = evaluator.decision()
        me = self._settings.node
        wanted = wanted_here(me, state)
        holders = {
            name: state.nodes[name].host_ip
            for name, held in view.decision.nodes.items()
            if name != me and not wanted.isdisjoint(held.claims)
        }
        for name in self._health.keys() - holders.keys():
            del self._health[name]
        for name in holders:
            if name not in self._health:
                self._health[name] = HolderHealth(self._settings.probe_misses, self._settings.probe_returns)
        self._slots = assign_slots(holders, self._slots)
        self._tell_prober()

    def _tell_prober(self) -> None:
        nodes = self.view.state.nodes
        up = frozenset(name for name, health in self._health.items() if health.state is Health.UP)
        self._prober.set_targets({name: nodes[name].host_ip for name in self._health}, self._used(), up)

    def _offline(self) -> set[str]:
        down = {n for n, h in self._health.items() if h.state is not Health.UP}
        return down | ({self._settings.node} if self.view.draining else set())

    def _used(self) -> frozenset[str]:
        """Return the nodes that this node sends new connections to, as applied."""
        applied = self._kernel.applied
        if applied is None:
            return frozenset(self._health)
        ways = set(applied.ways.values())
        return frozenset(h.node for h in applied.holders if f"to_{h.slot}" in ways)

    def _answers(self, answers: Mapping[str, Answer]) -> None:
        """Called from the prober's thread after each round."""
        self.post(lambda: self._probed(answers))

    def _probed(self, answers: Mapping[str, Answer]) -> bool:
        changed = False
        for name, answer in answers.items():
            health = self._health.get(name)
            if health and health.probed(echo=answer.echo, ready=answer.ready, draining=answer.draining):
                self._log(f"node {name} is {health.state}")
                changed = True
            if answer.lacks is not None and answer.lacks != self._lacks.get(name, frozenset()):
                self._lacks[name] = answer.lacks
                changed = True
        return changed

    def _apply(self) -> None:
        """Decide and put it in place. A failure is told, and tried again at the next check."""
        try:
            self._decide()
            self._decide()  # holders that are new may be known to be down: their health counts from the second time
            self._settle_claims()
            state = self._node_state()
            answered = state.held - state.quiet
            fresh = answered - self._claimer.answered
            self._claimer.answered = answered
            self._kernel.apply(state, {n: h.state for n, h in self._health.items()})
            self._claimer.announce(fresh)
            self._tell_prober()
            self.view.troubles = []
            wanted = set(self._claims())
            lacked = sorted(wanted - self._held | self._misfits.keys())
            self._lacked = tuple(lacked[:MOST_LACKED])
            ready = wanted <= (self._held | self.view.refused.keys())
            if ready and not self.view.ready:
                self._log("ready")
            self.view.ready = ready
        except EgressRouterError as error:
            self.view.troubles = [str(error)]
            self._log(f"not applied: {error}")
            self._kernel.forget()

    def _node_state(self) -> NodeState:
        alive = {
            name: slot for name, slot in self._slots.items() if self._health[name].state in (Health.UP, Health.DRAINING)
        }
        quiet = self._held if self.view.draining and self.handed_over() else frozenset()
        return node_plan(
            self._settings.node, self.view.state, self.view.decision, alive, self._held, quiet, self._lacking()
        )

    def _lacking(self) -> set[str]:
        """Return the addresses that their holders do not have; of the node's own, those that it has not."""
        nodes = self.view.decision.nodes
        found = {
            ip
            for name in self._health
            for ip in self._lacks.get(name, ())
            if name in nodes and ip in nodes[name].claims
        }
        me = nodes.get(self._settings.node)
        return found | (set(me.claims) - self._held if me else set())

    def _claims(self) -> list[str]:
        """Return the egress IPs that this node shall have and its interface can hold."""
        me = self.view.decision.nodes.get(self._settings.node)
        host = self.view.state.nodes.get(self._settings.node)
        self._misfits = {}
        if me is None or host is None or not me.claims:
            return []
        observed = self._kernel.observed()
        if host.host_ip not in {str(a.address.ip) for a in observed.addresses}:
            self._misfits = dict.fromkeys(me.claims, f"hostIP {host.host_ip} is not an address of this machine")
            return []
        subnets = [
            a.address.network
            for a in observed.addresses
            if a.interface == self._link.name
            and a.global_scope
            and a.address.network.prefixlen < a.address.max_prefixlen
        ]
        fitting = [ip for ip in me.claims if any(ip_address(ip) in subnet for subnet in subnets)]
        misfit = set(me.claims) - set(fitting)
        self._misfits = dict.fromkeys(misfit, f"outside the subnets of {self._link.name}")
        return fitting

    def _settle_claims(self) -> None:
        wanted = set(self._claims())
        self._held = frozenset(self._held & wanted)
        now = time.monotonic()
        self.view.refused = {ip: why for ip, why in self.view.refused.items() if ip in wanted}
        for ip in self._retries.keys() - wanted:
            del self._retries[ip]
        due = {ip for ip in wanted - self._held if self._retries.get(ip, (0.0, 0.0))[0] <= now}
        for ip in due & self._retries.keys():
            self._retries[ip] = (now + RETRY_CLAIM_MOST, self._retries[ip][1])
        self._claimer.check(due)

    def _claim_checked(self, ip: str, reason: str) -> bool:
        if reason:
            self.view.refused[ip] = reason
            wait = min(2 * self._retries[ip][1], RETRY_CLAIM_MOST) if ip in self._retries else RETRY_CLAIM
            self._retries[ip] = (time.monotonic() + wait, wait)
            self._log(f"{ip} is not claimed: {reason}")
            return True
        self.view.refused.pop(ip, None)
        self._retries.pop(ip, None)
        if ip not in self._claims():
            return False
        self._kernel.add(ip)
        self._held = self._held | {ip}
        self._log(f"{ip} is on {self._link.name}")
        return True

    def _verify(self) -> None:
        """Put back what somebody has taken away, and try again what has failed."""
        applied = self._kernel.applied
        if applied is not None and not self.view.troubles:
            observed = self._kernel.observed()
            on_link = {str(a.address.ip) for a in observed.addresses if a.interface == self._link.name}
            lost = self._held - on_link
            if lost:
                self._log(f"{', '.join(sorted(lost))} went away; claimed again")
                self._held = self._held - lost
            self._tables_gone()
        self._apply()

    def _tables_gone(self) -> bool:
        """Tell whether our tables went away; then the next ``_apply`` makes them again."""
        if self._kernel.applied is None or present():
            return False
        self._log("the tables went away; they are made again")
        self._kernel.forget()
        return True

    # What the control socket may ask for.

    def drain(self, draining: bool) -> None:
        """Start or end a hand-over."""
        self.view.draining = draining

    def handed_over(self) -> bool:
        """Tell whether no node sends traffic here any more."""
        return not self._prober.users(USERS_WITHIN * self._settings.probe_interval)

    def status(self) -> dict[str, object]:
        """Return all that the status shows, as plain data."""
        view = self.view
        applied = self._kernel.applied or NodeState()
        return {
            "node": self._settings.node,
            "ready": view.ready,
            "draining": view.draining,
            "problems": [*view.troubles, *map(str, view.problems)]
            + [f"{ip} is not claimed: {why}" for ip, why in sorted({**view.refused, **self._misfits}.items())],
            "held": sorted(self._held),
            "users": self._prober.users(USERS_WITHIN * self._settings.probe_interval),
            "holders": {n: h.state.value for n, h in sorted(self._health.items())},
            "lacking": sorted(self._lacking()),
            "pods": len(applied.ways),
            "namespaces": {
                name: {
                    "disposition": verdict.disposition.value,
                    "via": [{"ip": via.ip, "node": via.node} for via in verdict.via],
                    "reasons": list(verdict.reasons),
                }
                for name, verdict in view.decision.namespaces.items()
                if verdict.disposition is not Disposition.NORMAL
            },
        }


def wanted_here(me: str, state: ClusterState) -> set[str]:
    """Return the egress IPs of the namespaces that have pods on this node: what other nodes are needed for."""
    spaces = {pod.namespace for pod in state.pods.values() if pod.node == me} & state.namespaces.keys()
    keys = (address_key(text) for space in spaces for text in state.namespaces[space].egress_ips)
    return {address_text(key) for key in keys if key is not None}


def wait_for_objects(source: ClusterSource, log: Callable[[str], None], tries: int = 0) -> None:
    """Return when the objects can be read for the first time; until then the kernel stays as it is."""
    number = 0
    while True:
        number += 1
        try:
            source.read()
        except (ConfigurationError, OSError) as error:
            if number == tries:
                raise
            if number == 1:
                log(str(error))
            source.wait(5.0)
        else:
            return
