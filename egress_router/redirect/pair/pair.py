"""A router of a pair: its role, the lease that follows from it, and what it hears of the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from egress_router.config.values import Address
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop, Timer
from egress_router.errors import EgressRouterError, TryAgainError
from egress_router.net.vrrp import Advert, AdvertWatch
from egress_router.redirect.network_state import NetworkState
from egress_router.redirect.pair.claims import CLAIM_SECONDS, DEAD_SECONDS, Claims
from egress_router.redirect.pair.election import Election
from egress_router.redirect.pair.holder import Holder
from egress_router.redirect.pair.lease import Lease
from egress_router.redirect.pair.relay import Relay
from egress_router.redirect.pair.state import PairState, Peer
from egress_router.redirect.pair.values import (
    LEASE_SECONDS,
    RELAY_INTERFACE,
    WITH_GATEWAY,
    PairConfig,
    Role,
    advert_source,
    identity,
)

#: Before it takes part in the election: who else claims the address is known by then.
LISTEN_SECONDS = 0.7
#: Who elects by the cluster's network waits for so long until its peers are known.
MEET_BY_SECONDS = 5.0
#: Between two questions of one that is elected and waits until the address is free.
PRESS_SECONDS = 0.03
#: Between two questions of an active one that elects by the cluster's network: who else has the address?
RIVAL_SECONDS = 0.3
#: An answer that was under way when the address was taken is no rival's.
SETTLE_SECONDS = 0.3
#: A split is over when the other one was not heard in the egress network for so long.
SPLIT_SECONDS = 0.5
_MOST_PEERS = 16
#: In so many seconds no more than so many peers are told of.
TELL_SECONDS = 60.0
_NEVER = float("-inf")


class Pair:
    """Follows the election. ``hold`` has the worker bring the kernel to the state of ``wanted``, and calls ``held``
    then; ``network`` is the network as it is desired.
    """

    def __init__(
        self,
        config: PairConfig,
        loop: Loop,
        sources: tuple[Address, ...],
        own: Callable[[], Iterable[Address]] = tuple,
    ) -> None:
        """``own`` are the pod's addresses in the cluster."""
        self.config = config
        self.state = PairState(config, since=time.time())
        self.election = Election(config, loop, self._told)
        self.lease = Lease(sources)
        self._loop = loop
        self._identity = identity(config, sources)
        self._watch: AdvertWatch | None = None
        self._renewal: Timer | None = None
        self._index = 0
        self._both_until = self._blocked_until = _NEVER
        self._claims = Claims()
        #: Who has the address, in the egress network.
        self.holder = Holder()
        #: Asks that network, and tells it who we are.
        self.ask: Callable[[], None] = lambda: None
        self.tell: Callable[[], None] = lambda: None
        self.relay: Relay | None = None
        if config.by_cluster:
            self.relay = Relay(config, loop, own)
            self.relay.may_say, self.relay.heard = self._may_say, self._note
        self._pressing: Timer | None = None
        self._elected = self._settled = self._rival_until = _NEVER
        #: Who claimed the address beside us, since when, and when it did so last.
        self._rival = "", _NEVER, _NEVER
        self._kept_off_by = ""
        self._split = False
        self._joined_by = self._renewed = _NEVER
        self._missed = False
        self._told_of: deque[float] = deque(maxlen=_MOST_PEERS)
        #: What keepalived has said last.
        self._election_says = Role.STANDBY
        #: The source of this router's adverts.
        self.adverts_from: IPv4Address | None = config.address
        self.hold: Callable[[], None] = lambda: None
        self.network: Callable[[], NetworkState | None] = lambda: None

    @property
    def wanted(self) -> bool:
        """Whether this router shall have the address."""
        return self.state.role is Role.ACTIVE

    def prepare(self, interface: str, mac: str) -> None:
        """Write what keepalived needs, and have it judged. Raises EgressRouterError."""
        source = advert_source(self.config, mac)
        if self.relay is None:
            self.election.prepare(interface, source, self._identity)
            return
        self._source = source
        self.relay.open(source)
        self.election.prepare(RELAY_INTERFACE, source, self._identity, tracked=interface)

    def start(self, *, listen: bool) -> None:
        """Take part in the election; ``listen`` first who claims the address."""
        self._loop.every(self.config.pace, self._look)
        self._joined_by = self._loop.now() + MEET_BY_SECONDS
        if self.relay is not None:
            self._loop.every(1.0, self._look_at_relay)
        self._loop.call_later(LISTEN_SECONDS if listen else 0.0, self._join)

    def _join(self) -> None:
        if self.relay is not None and not self.relay.peers and self._loop.now() < self._joined_by:
            # Who is active does not know of this pod, and cannot tell it.
            self._loop.call_later(LISTEN_SECONDS, self._join)
        else:
            self.election.start()

    def _look_at_relay(self) -> None:
        if self.relay is not None and self.relay.renewed(self._source):
            self.election.start_again(f"{RELAY_INTERFACE} was taken away, and is another interface now")

    def meet(self, peers: Iterable[str]) -> None:
        """Elect with the pods of these addresses; from any thread."""
        if self.relay is not None:
            self.relay.peers = frozenset(peers)

    # What the loop hears

    def open(self, interface: str, index: int, mac: str) -> None:
        """Hear adverts by an interface, instead of the one before."""
        self._close_watch()
        if self._index not in (0, index):
            # keepalived (2.2.7) sees the new one come up and is never active on it again, dynamic_interfaces or not.
            self.election.start_again(f"{interface} is another interface now")
        self._index = index
        self.adverts_from = advert_source(self.config, mac)
        self.state.mac = mac
        if self.relay is not None:
            self.relay.mac = mac
            return
        try:
            self._watch = AdvertWatch(interface, index, mac)
        except TryAgainError:
            # It went away since it was seen, which its own event tells.
            return
        self._loop.add_reader(self._watch.fileno(), self._hear)

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._loop.remove(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _hear(self) -> None:
        for advert in self._watch.heard() if self._watch is not None else ():
            if advert.number == self.config.number:
                self._note(advert, str(advert.source))

    def _note(self, advert: Advert, place: str) -> None:
        now = self._loop.now()
        ours = self._identity in advert.addresses
        known = self.state.peers.get(advert.mac)
        if known is None:
            if len(self.state.peers) >= _MOST_PEERS:
                oldest = min(self.state.peers, key=lambda mac: self.state.peers[mac].heard)
                del self.state.peers[oldest]
            if not self._tells_of_new(now):
                pass
            elif ours:
                LOGGER.info("peer %s (%s) is active", advert.mac, place)
            else:
                LOGGER.error(
                    "%s (%s) uses EGRESS_PAIR=%d for another EGRESS_SOURCE: each pair of a network needs a number of "
                    "its own",
                    advert.mac,
                    place,
                    self.config.number,
                )
        heard = now if advert.priority else _NEVER
        self.state.peers[advert.mac] = Peer(place, advert.priority, heard, ours)
        if ours and self.relay is not None:
            self._heard_by_cluster(advert)
        if ours and advert.priority and self.state.role is Role.ACTIVE:
            self.state.both_active += 1
            if now >= self._both_until:
                LOGGER.error("two are active: %s (%s) is, too; one of both steps back now", advert.mac, place)
            self._both_until = now + self.config.patience

    def _tells_of_new(self, now: float) -> bool:
        """Whether another one that was not known is logged: whoever may send can make up as many MACs as it likes."""
        full = len(self._told_of) == self._told_of.maxlen
        if full and now - self._told_of[0] < TELL_SECONDS:
            return False
        self._told_of.append(now)
        return True

    def is_peer(self, mac: str) -> bool:
        """Whether a MAC is that of another router of the pair."""
        peer = self.state.peers.get(mac)
        if peer is not None and peer.ours:
            return True
        # A standby sends no adverts, and the only way that they come by may be cut.
        return self.relay is not None and any(twin.mac == mac for twin in list(self.state.twins.values()))

    # What the egress network says, where it carries no adverts

    @property
    def own_pace(self) -> float | None:
        """Seconds between two questions to all machines who else has the address; None: the usual ones."""
        if self.relay is None:
            return None
        if self.wanted:
            return RIVAL_SECONDS
        return None if self.holder.free or self.holder.mac else self.config.pace

    @property
    def asks_holder(self) -> bool:
        """Whether the one that has the address is asked in between whether it still does."""
        return self.relay is not None and not self.wanted and self.holder.answers

    @property
    def no_peer(self) -> str:
        """What a machine is that has the address, and of which no advert came."""
        if self.relay is None:
            return "none of the pair"
        return "none of the pair, or one whose adverts do not come by the cluster's network"

    def claimed_by(self, mac: str, version: int) -> None:
        """Note that a machine, of the pair or not, says in the egress network that it has the address."""
        self.holder.claimed(mac, version)
        if self.relay is None:
            return
        now = self._loop.now()
        if self._split and mac == self._kept_off_by:
            self._blocked_until = max(self._blocked_until, now + SPLIT_SECONDS)
        if self.state.holding and now >= self._settled and (self._goes_on(mac, now) or not self._hears(mac)):
            self._meet_rival(mac, now)

    def _goes_on(self, mac: str, now: float) -> bool:
        """Whether a machine has had the address beside us for longer than an election takes: it may be heard here, and
        not hear us.
        """
        rival, first, last = self._rival
        if rival != mac or now - last > 3 * RIVAL_SECONDS:
            first = now
        self._rival = mac, first, now
        return now - first >= DEAD_SECONDS

    def _hears(self, mac: str) -> bool:
        peer = self.state.peers.get(mac)
        return peer is not None and peer.ours and self._loop.now() - peer.heard < self.config.patience

    def _heard_by_cluster(self, advert: Advert) -> None:
        if not advert.priority:
            self.holder.left(advert.mac)
        elif self.state.blocked and self._kept_off_by == advert.mac:
            # It was unknown, or cut off; from here on the election says who is active.
            self._blocked_until = self._loop.now()
            self._look()

    def _may_say(self, advert: Advert) -> bool:
        """Whether an advert of ours may go to the peers. One that is elected because it hears nobody, and sees that the
        other one has the address, must not make that give way, nor when that one is heard again: of two with one
        priority whoever has the address keeps it, whatever the sources of their adverts are.
        """
        if not advert.priority:
            return True
        if self._lapsed:
            return False
        if self.wanted or self.holder.free:
            return True
        return any(self._hears(mac) and peer.priority < advert.priority for mac, peer in self.state.peers.items())

    def _meet_rival(self, mac: str, now: float) -> None:
        """Both have the address and cannot hear each other's adverts: the one with the lower MAC gives it up, or the
        one that misses its gateway. A machine that is surely none of the pair is named elsewhere.
        """
        if not self.is_peer(mac) and any(twin.mac for twin in list(self.state.twins.values())):
            return
        if now >= self._rival_until:
            self.state.splits += 1
            LOGGER.error(
                "two are active: %s has the address, too, and adverts do not pass both ways by the cluster's network "
                "(UDP port %d); one of both steps back now",
                mac,
                self.config.port,
            )
        self._rival_until = now + 1
        if self._missed or self.state.mac < mac:
            self._cut_off(mac)
            self._changed(Role.FAULT, self.state.blocked)
        else:
            self.tell()

    def _cut_off(self, mac: str) -> None:
        self._kept_off_by, self._split = mac, True
        self._keep_off(
            self._loop.now() + SPLIT_SECONDS,
            f"{mac} has it in the egress network, and no advert of it comes by the cluster's: does a NetworkPolicy, or "
            f"the pods' network, drop UDP port {self.config.port} between the routers?",
        )

    def _press(self) -> None:
        """Take the address as soon as nobody answers for it."""
        self.ask()
        if self._pressing is None:
            return
        if self.holder.free:
            self._stop_pressing()
            self._changed(Role.ACTIVE, "")
        elif self._loop.now() >= self._elected + DEAD_SECONDS:
            # No lease is that long: it lives.
            self._stop_pressing()
            if self._hears(self.holder.mac) and self.state.peers[self.holder.mac].priority >= self._priority:
                # Again. keepalived does not step back by itself for one whose source is the lower one, and is given the
                # time to see this.
                self._kept_off_by, self._split = "", False
                why = f"{self.holder.mac} has it, and its adverts come again"
                self._keep_off(self._loop.now() + SPLIT_SECONDS, why, wrong=False)
            else:
                self.state.splits += 1
                self._cut_off(self.holder.mac)

    @property
    def _priority(self) -> int:
        return self.config.priority + (0 if self._missed else WITH_GATEWAY)

    def _stop_pressing(self) -> None:
        self.state.waits_for = ""
        if self._pressing is not None:
            self._pressing.cancel()
            self._pressing = None

    # What keeps it from being active

    def gateways(self, *, missed: bool) -> None:
        """Note whether a gateway is missed: then a router that hears all of them comes first."""
        self._missed = missed
        self._track()

    def claimed(self, mac: str, at: float, why: str, *, again: float) -> None:
        """A machine of which no advert has come claimed the address at a time of the loop's clock, and is asked every
        ``again`` seconds.
        """
        self._kept_off_by, self._split = mac, False
        self._keep_off(self._claims.until(mac, at, again + self.config.patience), why)

    def block(self, why: str) -> None:
        """Leave the address to others for CLAIM_SECONDS."""
        self._kept_off_by, self._split = "", False
        self._keep_off(self._loop.now() + CLAIM_SECONDS, why)

    def _keep_off(self, until: float, why: str, *, wrong: bool = True) -> None:
        if not self.state.blocked:
            level = LOGGER.error if wrong else LOGGER.info
            level("the address is not taken: %s", why)
        self.state.blocked = why
        self._blocked_until = max(self._blocked_until, until)
        self._track()

    def _look(self) -> None:
        if self.state.blocked and self._loop.now() >= self._blocked_until:
            LOGGER.info("the address may be taken again; it was not, for %s", self.state.blocked)
            self.state.blocked = ""
            self._kept_off_by, self._split = "", False
            self._track()
        if self.relay is None or self.wanted or self.state.blocked or self._pressing is not None:
            return
        if self._election_says is Role.ACTIVE:
            # It was kept off for so short a time that keepalived has not seen it, and so does not say it again.
            self._changed(Role.ACTIVE, "")

    def _track(self) -> None:
        self.election.track(gateways=self._missed, blocked=bool(self.state.blocked))

    # The role

    def _told(self, role: Role, why: str) -> None:
        """Take what keepalived says, or that it has ended."""
        self._election_says = role
        self._changed(role, why)

    def _changed(self, role: Role, why: str) -> None:
        state = self.state
        state.restarts = self.election.restarts
        self._stop_pressing()
        if role is state.role:
            return
        if role is Role.ACTIVE and self.relay is not None and not self.holder.free:
            # Nobody is heard, and somebody answers for the address: one that was killed, or one that is cut off.
            state.waits_for = self.holder.mac or "whoever had it"
            self._elected = self._loop.now()
            self._pressing = self._loop.every(PRESS_SECONDS, self._press)
            self.ask()
            return
        before, state.role = state.role, role
        state.why = why or self._reason(role)
        state.since = time.time()
        state.changes += 1
        level = LOGGER.info if role is not Role.FAULT else LOGGER.warning
        level("pair %d: %s, it was %s (%s)", self.config.number, role, before, state.why)
        if role is Role.ACTIVE:
            self.hold()
        elif before is Role.ACTIVE:
            self._give_up()
            self.hold()

    def _reason(self, role: Role) -> str:
        now = self._loop.now()
        others = " and ".join(self.state.active_peers(now))
        if role is Role.ACTIVE:
            return self.state.last_heard(now)
        if role is Role.FAULT:
            return "the egress interface is down" if not self.state.blocked else self.state.blocked
        return f"{others} is active" if others else "the egress interface is up"

    def held(self, good: bool) -> None:
        """The worker has done what ``hold`` asked for; ``good``: and the kernel is as desired."""
        if not self.wanted:
            return
        if not good:
            # Somebody else may be able to.
            self.block("the kernel is not as desired")
            return
        if not self.state.holding:
            self.state.holding = True
            self._settled = self._loop.now() + SETTLE_SECONDS
            LOGGER.info("pair %d: the address is in place", self.config.number)
        if self._renewal is None:
            self._renewed = self._loop.now()
            self._renewal = self._loop.every(self.config.pace, self._renew)

    @property
    def _lapsed(self) -> bool:
        """Whether this process stood still for so long that the kernel has taken the address away. Between pods it can
        be found out whether somebody else has it now.
        """
        return self.relay is not None and self.state.holding and self._loop.now() - self._renewed > LEASE_SECONDS

    def _renew(self) -> None:
        if self._lapsed:
            self._changed(Role.STANDBY, "it stood still, and its lease has ended")
            return
        self._renewed = self._loop.now()
        network = self.network()
        if network is not None:
            self.lease.renew(network)

    def _give_up(self) -> None:
        self.state.holding = False
        # Whoever is next is not known yet.
        self.holder.forget()
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        network = self.network()
        if network is not None:
            self.lease.end(network)

    def leave(self) -> None:
        """Give the address up, and let somebody else take it."""
        self._election_says = Role.STANDBY
        if self.wanted:
            self._changed(Role.STANDBY, "it leaves")
        self._stop_pressing()
        self.election.stop(self.relay.pass_on if self.relay is not None else lambda: None)

    def close(self) -> None:
        """Leave, and give everything back."""
        try:
            self.leave()
        except EgressRouterError as error:
            LOGGER.error("%s", error)
        self._close_watch()
        if self.relay is not None:
            self.relay.close()
        self.lease.close()
