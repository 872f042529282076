"""The agent of one node: objects and probes in, kernel state out."""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address

from egress_router.daemon.reachability import Health
from egress_router.daemon.signals import Inbox
from egress_router.egressip.api import HostSubnet
from egress_router.egressip.assignment.decision import Evaluator, with_recorded_assignment
from egress_router.egressip.node.claims import Claimer
from egress_router.egressip.node.control import ControlSocket
from egress_router.egressip.node.dataplane import NodeKernel, require_all
from egress_router.egressip.node.drain import HandOver
from egress_router.egressip.node.gateways import Holders, Holdings
from egress_router.egressip.node.plan import node_plan
from egress_router.egressip.node.reassignment import Heirs
from egress_router.egressip.node.state import NodeSettings, NodeState
from egress_router.egressip.node.status import View, drain_status, node_status
from egress_router.egressip.node.tables import TableWatch, alive_before, dropped_packets, loaders, present, ways_before
from egress_router.egressip.source.directory import ClusterSource
from egress_router.errors import EgressRouterError, PlatformError, Problem, TryAgainError, quoted
from egress_router.net.icmp_probe import CALM_ROUNDS, Answer, Prober
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import Link, Observed

#: How often the kernel is looked at although nothing happened; seconds.
CHECK_EVERY = 5.0
#: A node that asked within this many probe intervals is listened to in a hand-over.
USERS_WITHIN = 3 * CALM_ROUNDS


class Agent:
    """Runs until ``inbox.stop``; leaves everything in place, so that the next one takes over without a gap."""

    def __init__(
        self, settings: NodeSettings, source: ClusterSource, control: ControlSocket, log: Callable[[str], None]
    ) -> None:
        self.settings = settings
        require_all()
        self._source = source
        self._control = control
        self._log = log
        self.view = View()
        self.inbox = Inbox()
        self.holders = Holders(settings.probe_misses, settings.probe_returns)
        self.heirs = Heirs()
        self.holdings = Holdings(settings.interface)
        self.hand_over = HandOver(control.path.with_suffix(".drain"), self.inbox.post, log)
        self._evaluator = Evaluator(follows=True)
        self._tables = TableWatch()
        self._lacked: tuple[str, ...] = ()
        self._told_nodes: Mapping[str, HostSubnet] | None = None
        self._listens_since = time.monotonic()
        self._listen = USERS_WITHIN * settings.probe_interval
        self._read()
        host = self.view.state.nodes.get(settings.node)
        if host is None:
            raise PlatformError(f"there is no HostSubnet {settings.node}; --node must name this node's object")
        try:
            self.host_ip = host_ip = str(ip_address(host.host_ip))
        except ValueError:
            raise PlatformError(
                f"HostSubnet {settings.node}: hostIP {quoted(host.host_ip)} is not an address"
            ) from None
        self._link = self._outside_link()
        self.kernel = NodeKernel(settings, host_ip, self._link, log)
        self._claimer = Claimer(self._link, lambda ip, reason: self.inbox.post(lambda: self._claim_checked(ip, reason)))
        self._prober = Prober(host_ip, settings.probe_port, settings.probe_interval, self._answers, self._word)

    def _word(self, pods: Collection[str]) -> dict[str, object]:
        """Return what other agents are told, and what the pods that they ask about are translated to."""
        applied = self.kernel.applied
        sources = {"pods": {pod: applied.translations.get(pod, "") for pod in pods}} if pods and applied else {}
        return {"ready": self.view.ready, "draining": self.hand_over.draining, "lacks": list(self._lacked), **sources}

    def _outside_link(self) -> Link:
        with Rtnetlink() as kernel:
            link = kernel.link(self.settings.interface)
        if link is None:
            raise PlatformError(f"there is no interface {self.settings.interface}; --interface names the outside one")
        return link

    def run(self) -> None:
        """Take over what is there, then follow objects and probes."""
        self._take_over()
        # The objects stay for long; a full collection of garbage in a large cluster takes as long as a round of probes.
        gc.freeze()
        self._prober.start()
        if not present():
            # A node that was just booted: until it is known who is up, pods with egress IPs send nothing.
            self._apply()
        # A first round of probes before the first change: what is up must not look down, nor the other way round.
        self._turn(
            until=time.monotonic() + self.settings.probe_interval * (self.settings.probe_misses + 1.5), gather=True
        )
        self.holders.judge_unknown()
        self._apply()
        check = time.monotonic() + CHECK_EVERY
        while not self.inbox.stopping:
            retry = self.holdings.next_try() or check
            turn = self.hand_over.next_turn(time.monotonic())
            if self._turn(until=min(check, retry, turn)) or time.monotonic() >= retry or self._drain_moved_on():
                self._apply()
                self._require_host_ip()
            if time.monotonic() >= check:
                check = time.monotonic() + CHECK_EVERY
                self._verify()
                self._require_host_ip()
        self._prober.stop()

    def _drain_moved_on(self) -> bool:
        """Count who still uses this node's addresses; tell whether they are to fall silent, or to answer again."""
        self.hand_over.look(self.holdings.held, time.monotonic())
        applied = self.kernel.applied
        return applied is not None and applied.arp_suppressed != self._quiet()

    def _require_host_ip(self) -> None:
        """Raise TryAgainError when the machine has another hostIP by now: the tunnel and the probes stand on it, and an
        agent that starts again takes everything over.
        """
        host = self.view.state.nodes.get(self.settings.node)
        if host is None or host.host_ip == self.host_ip:
            return
        if host.host_ip in {str(address.address.ip) for address in self.kernel.observed().addresses}:
            raise TryAgainError(f"hostIP is {host.host_ip} now, no longer {self.host_ip}; start again")

    def _take_over(self) -> None:
        """Keep the slots, the addresses and the holders in use that an agent before this one has left."""
        self.holdings.held = self.kernel.adopt()
        slots = self.kernel.slots_before({n: h.host_ip for n, h in self.view.state.nodes.items()})
        self.holders.slots = slots
        used, alive = ways_before(), alive_before()
        self._decide()
        self.holders.adopt(slots, used, alive)

    def _turn(self, until: float, *, gather: bool = False) -> bool:
        """Wait for the next thing to happen, not beyond ``until``, and take in all of it; with ``gather`` go on until
        then.
        """
        changed = False
        while not self.inbox.stopping:
            self.view.turned = time.monotonic()
            left = until - self.view.turned
            if left <= 0:
                return changed
            fds = [
                part.fileno() for part in (self._source, self.inbox, self._control, self._tables, self.kernel.network)
            ]
            readable = select.select(fds, [], [], left)[0]
            if self.kernel.network.fileno() in readable:
                changed |= self._on_network()
            changed |= self.inbox.take()
            if self._tables.fileno() in readable:
                heard = self._tables.heard(loaders)
                changed |= (heard.tampered or heard.lost) and self._tables_gone(tampered=heard.tampered)
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
        if before == state:
            return False
        # Here and not with each decision: health changes the decision, and never whose address a pod's is.
        self.heirs.follow(self.settings.node, state, self.view.decision)
        return True

    def _draining(self) -> frozenset[str]:
        """Return the nodes that are used where there is no other."""
        return self.holders.in_state(Health.DRAINING) | ({self.settings.node} if self.hand_over.draining else set())

    def _decide(self) -> set[str]:
        """Bring the decision, the probed nodes and their slots up to date; return the nodes that counted as offline."""
        evaluator, view = self._evaluator, self.view
        old = view.decision
        state = view.state
        offline = self.holders.offline()
        evaluator.update(
            {**dict.fromkeys(old.namespaces.keys() - state.namespaces.keys()), **state.namespaces},
            {**dict.fromkeys(old.nodes.keys() - state.nodes.keys()), **state.nodes},
            offline,
        )
        view.decision = evaluator.decision()
        self.holders.follow(self.settings.node, state, view.decision)
        self._tell_prober()
        return offline

    def _tell_prober(self) -> None:
        nodes = self.view.state.nodes
        if nodes is not self._told_nodes:
            self._told_nodes = nodes
            self._prober.set_peers(frozenset(_canonical(node.host_ip) for node in nodes.values()))
        up = self.holders.in_state(Health.UP)
        targets = {name: nodes[name].host_ip for name in self.holders.health}
        self._prober.set_targets(targets, self._used(), up, self.heirs.questions())

    def _used(self) -> frozenset[str]:
        """Return the nodes that this node sends new connections to, as applied."""
        applied = self.kernel.applied
        if applied is None:
            return frozenset(self.holders.health)
        ways = set(applied.ways.values())
        return frozenset(h.node for h in applied.gateways if f"to_{h.slot}" in ways)

    def _answers(self, answers: Mapping[str, Answer]) -> None:
        """Called from the prober's thread after each round."""
        self.inbox.post(lambda: self._probed(answers))

    def _probed(self, answers: Mapping[str, Answer]) -> bool:
        changed, said = self.holders.probed(answers)
        for text in said:
            self._log(text)
        for name, answer in answers.items():
            changed |= self.heirs.heard(name, answer.sources)
        return changed

    def _apply(self) -> None:
        """Decide and put it in place. A failure is told, and tried again at the next check."""
        started = time.monotonic()
        view, holdings = self.view, self.holdings
        try:
            offline = self._decide()
            if self.holders.offline() != offline:
                # Holders that are new were counted as online; their health counts from now on.
                self._decide()
            wanted = set(self._claims())
            self._claimer.check(holdings.settle(wanted, time.monotonic()))
            state = self._node_state()
            answered = state.assigned - state.arp_suppressed
            fresh = answered - self._claimer.answered
            self._claimer.answered = answered
            self.kernel.apply(state)
            self._claimer.announce(fresh)
            self._tell_prober()
            view.troubles = []
            self._lacked = holdings.lacked(wanted)
            ready = holdings.settled(wanted)
            if ready and not view.ready:
                self._log("ready")
            view.ready = ready
            view.applies += 1
        except EgressRouterError as error:
            view.troubles = [str(error)]
            view.failed_applies += 1
            self._log(f"not applied: {error}")
            self.kernel.forget()
        view.apply_seconds += time.monotonic() - started

    def _node_state(self) -> NodeState:
        held = self.holdings.held
        return node_plan(
            self.settings.node,
            self.view.state,
            self.view.decision,
            self.holders.alive(),
            held,
            self._quiet(),
            self.lacking(),
            self._draining(),
            self.heirs.doubted,
        )

    def _quiet(self) -> frozenset[str]:
        """Return the addresses that are not answered for any more."""
        return self.holdings.held if self.drained() else frozenset()

    def lacking(self) -> set[str]:
        """Return the addresses that their holders do not have; of the node's own, those that it has not."""
        me = self.view.decision.nodes.get(self.settings.node)
        return self.holders.lacking(self.view.decision) | (set(me.claims) - self.holdings.held if me else set())

    def _claims(self) -> list[str]:
        """Return the egress IPs that this node shall have and its interface can hold."""
        me = self.view.decision.nodes.get(self.settings.node)
        host = self.view.state.nodes.get(self.settings.node)
        if me is None or host is None or not me.claims:
            return self.holdings.fitting((), "", Observed())
        return self.holdings.fitting(me.claims, host.host_ip, self.kernel.observed())

    def _claim_checked(self, ip: str, reason: str) -> bool:
        if reason:
            self.holdings.refuse(ip, reason, time.monotonic())
            self._log(f"{ip} is not claimed: {reason}")
            return True
        self.holdings.free(ip)
        if ip not in self._claims():
            return False
        self.kernel.add(ip)
        self.holdings.held |= {ip}
        self._log(f"{ip} is on {self._link.name}")
        return True

    def _on_network(self) -> bool:
        """Put back at once what somebody has changed of rules, routes and tunnel; return whether something must be
        applied, because an address went away or that failed.
        """
        heard = self.kernel.network.heard(self.kernel.netlink.port)
        failed = heard.network and not self._repair_network()
        return failed or (not heard.addresses.isdisjoint(self.holdings.held) and self._addresses_lost())

    def _repair_network(self) -> bool:
        """Put back rules, routes and tunnel; return whether they are in place. If not, the next ``_apply`` replaces
        everything.
        """
        now = time.monotonic()
        try:
            if self.kernel.repair(now):
                self.view.repairs += 1
        except EgressRouterError as error:
            self._log(f"what somebody has changed cannot be put back: {error}")
            self.kernel.forget()
            return False
        self.view.tampering = self.kernel.tampering(now)
        return True

    def _addresses_lost(self) -> bool:
        """Take note of egress IPs that went away from the interface; return whether there are any."""
        on_link = {str(a.address.ip) for a in self.kernel.netlink.addresses(self._link)}
        lost = self.holdings.held - on_link
        if lost:
            self._log(f"{', '.join(sorted(lost))} went away; claimed again")
            self.holdings.held -= lost
            self.view.repairs += 1
        return bool(lost)

    def _verify(self) -> None:
        """Put back what somebody has taken away, and try again what has failed."""
        if self.kernel.applied is not None and not self.view.troubles:
            self._repair_network()
            self._addresses_lost()
            self._tables_gone()
        self._apply()

    def _tables_gone(self, *, tampered: bool = False) -> bool:
        """Tell whether our tables went away or are not as we left them; then the next ``_apply`` makes them again."""
        if self.kernel.applied is None or (not tampered and present()):
            return False
        self._log("somebody changed or deleted the tables, or the guard of the boot came back; they are made again")
        self.kernel.forget()
        self.view.repairs += 1
        return True

    @property
    def turned(self) -> float:
        """When the loop turned last; time.monotonic()."""
        return self.view.turned

    def reasons(self, now: float) -> list[str]:
        """Return why the node is not ready."""
        reasons = [*self.view.troubles, *filter(None, [self.view.tampering])]
        if not self.view.ready and not reasons:
            reasons.append(f"not claimed yet: {', '.join(self._lacked) or 'the first round of probes runs'}")
        return reasons

    def drain(self, grace: float) -> None:
        """Start a hand-over; wait for connections for so many seconds from now."""
        if not self.hand_over.draining:
            # A node that has just begun to send here has not said so yet.
            self._listens_since = time.monotonic()
        self.hand_over.start(grace)

    def undrain(self) -> None:
        """Take traffic again."""
        self.hand_over.end()

    def users(self) -> list[str]:
        """Return the addresses of the nodes that send traffic here, and this one's if its own pods leave by it."""
        applied = self.kernel.applied
        own = applied is not None and "own" in applied.ways.values()
        return sorted({*self._prober.users(self._listen), *({self.host_ip} if own else ())})

    def handed_over(self) -> bool:
        """Tell whether nothing new leaves with this node's addresses any more."""
        return not self.users() and time.monotonic() - self._listens_since > self._listen

    def drained(self) -> bool:
        """Tell whether a hand-over is done: no node sends anything new here, and no connection is waited for."""
        return self.hand_over.over(time.monotonic()) and self.handed_over()

    def _drain_status(self) -> dict[str, object] | None:
        hand_over = self.hand_over
        if hand_over.until is None:
            return None
        seconds = max(0.0, hand_over.until - time.monotonic())
        return drain_status(self.view, self.holdings.held, self._draining(), hand_over.left, seconds, self.drained())

    def status(self) -> dict[str, object]:
        """Return all that the status shows, as plain data."""
        return node_status(
            self.settings.node,
            self.view,
            self.holders,
            self.holdings,
            self.kernel.applied or NodeState(),
            self.users(),
            self.lacking(),
            dropped_packets(),
            self._drain_status(),
            doubted=dict(self.heirs.doubted),
        )


def _canonical(host_ip: str) -> str:
    """Return an address as the kernel spells it; what is none as it is."""
    try:
        return str(ip_address(host_ip))
    except ValueError:
        return host_ip
