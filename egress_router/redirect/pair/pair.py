"""A router of a pair: its role, the lease that follows from it, and what it hears of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address

from egress_router.config.values import Address
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop, Timer
from egress_router.errors import EgressRouterError, TryAgainError
from egress_router.net.vrrp import Advert, AdvertWatch
from egress_router.redirect.network_state import NetworkState
from egress_router.redirect.pair.claims import CLAIM_SECONDS, Claims
from egress_router.redirect.pair.election import Election
from egress_router.redirect.pair.lease import Lease
from egress_router.redirect.pair.state import PairState, Peer
from egress_router.redirect.pair.values import PairConfig, Role, advert_source, identity

#: Before it takes part in the election: who else claims the address is known by then.
LISTEN_SECONDS = 0.7
_MOST_PEERS = 16
_NEVER = float("-inf")


class Pair:
    """Follows the election. ``hold`` has the worker bring the kernel to the state of ``wanted``, and calls ``held``
    then; ``network`` is the network as it is desired.
    """

    def __init__(self, config: PairConfig, loop: Loop, sources: tuple[Address, ...]) -> None:
        self.config = config
        self.state = PairState(config, since=time.time())
        self.election = Election(config, loop, self._changed)
        self.lease = Lease(sources)
        self._loop = loop
        self._identity = identity(config, sources)
        self._watch: AdvertWatch | None = None
        self._renewal: Timer | None = None
        self._index = 0
        self._both_until = self._blocked_until = _NEVER
        self._claims = Claims()
        self._missed = False
        #: The source of this router's adverts.
        self.adverts_from: IPv4Address | None = config.address
        self.hold: Callable[[], None] = lambda: None
        self.network: Callable[[], NetworkState | None] = lambda: None

    @property
    def wanted(self) -> bool:
        """Whether this router shall have the address."""
        return self.state.role is Role.ACTIVE

    def prepare(self, interface: str, mac: str) -> None:
        """Write what keepalived needs, and have it judged. Raises PlatformError."""
        self.election.prepare(interface, advert_source(self.config, mac), self._identity)

    def start(self, *, listen: bool) -> None:
        """Take part in the election; ``listen`` first who claims the address."""
        self._loop.every(self.config.pace, self._look)
        self._loop.call_later(LISTEN_SECONDS if listen else 0.0, self.election.start)

    # What the loop hears

    def open(self, interface: str, index: int, mac: str) -> None:
        """Hear adverts by an interface, instead of the one before."""
        self._close_watch()
        if self._index not in (0, index):
            # keepalived (2.2.7) sees the new one come up and is never active on it again, dynamic_interfaces or not.
            self.election.start_again(f"{interface} is another interface now")
        self._index = index
        self.adverts_from = advert_source(self.config, mac)
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
                self._note(advert)

    def _note(self, advert: Advert) -> None:
        now = self._loop.now()
        ours = self._identity in advert.addresses
        known = self.state.peers.get(advert.mac)
        if known is None:
            if len(self.state.peers) >= _MOST_PEERS:
                oldest = min(self.state.peers, key=lambda mac: self.state.peers[mac].heard)
                del self.state.peers[oldest]
            if ours:
                LOGGER.info("peer %s (%s) is active", advert.mac, advert.source)
            else:
                LOGGER.error(
                    "%s (%s) uses EGRESS_PAIR=%d for another EGRESS_SOURCE: each pair of a network needs a number of "
                    "its own",
                    advert.mac,
                    advert.source,
                    self.config.number,
                )
        heard = now if advert.priority else _NEVER
        self.state.peers[advert.mac] = Peer(str(advert.source), advert.priority, heard, ours)
        if ours and advert.priority and self.state.role is Role.ACTIVE:
            self.state.both_active += 1
            if now >= self._both_until:
                LOGGER.error("two are active: %s (%s) is, too; one of both steps back now", advert.mac, advert.source)
            self._both_until = now + self.config.patience

    def is_peer(self, mac: str) -> bool:
        """Whether a MAC is that of another router of the pair."""
        peer = self.state.peers.get(mac)
        return peer is not None and peer.ours

    # What keeps it from being active

    def gateways(self, *, missed: bool) -> None:
        """Note whether a gateway is missed: then a router that hears all of them comes first."""
        self._missed = missed
        self._track()

    def claimed(self, mac: str, at: float, why: str, *, again: float) -> None:
        """A machine of which no advert has come claimed the address at a time of the loop's clock, and is asked every
        ``again`` seconds.
        """
        self._keep_off(self._claims.until(mac, at, again + self.config.patience), why)

    def block(self, why: str) -> None:
        """Leave the address to others for CLAIM_SECONDS."""
        self._keep_off(self._loop.now() + CLAIM_SECONDS, why)

    def _keep_off(self, until: float, why: str) -> None:
        if not self.state.blocked:
            LOGGER.error("the address is not taken: %s", why)
        self.state.blocked = why
        self._blocked_until = max(self._blocked_until, until)
        self._track()

    def _look(self) -> None:
        if self.state.blocked and self._loop.now() >= self._blocked_until:
            LOGGER.info("the address may be taken again; it was not, for %s", self.state.blocked)
            self.state.blocked = ""
            self._track()

    def _track(self) -> None:
        self.election.track(gateways=self._missed, blocked=bool(self.state.blocked))

    # The role

    def _changed(self, role: Role, why: str) -> None:
        state = self.state
        state.restarts = self.election.restarts
        if role is state.role:
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
            LOGGER.info("pair %d: the address is in place", self.config.number)
        if self._renewal is None:
            self._renewal = self._loop.every(self.config.pace, self._renew)

    def _renew(self) -> None:
        network = self.network()
        if network is not None:
            self.lease.renew(network)

    def _give_up(self) -> None:
        self.state.holding = False
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        network = self.network()
        if network is not None:
            self.lease.end(network)

    def leave(self) -> None:
        """Give the address up, and let somebody else take it."""
        if self.wanted:
            self._changed(Role.STANDBY, "it leaves")
        self.election.stop()

    def close(self) -> None:
        """Leave, and give everything back."""
        try:
            self.leave()
        except EgressRouterError as error:
            LOGGER.error("%s", error)
        self._close_watch()
        self.lease.close()
