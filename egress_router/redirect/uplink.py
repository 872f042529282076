"""The egress side, watched: is the link up, do the gateways answer, does anybody else claim our addresses?"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from egress_router.config.values import Address
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.daemon.reachability import Reachability
from egress_router.errors import TryAgainError
from egress_router.net.arp_nd import Claim
from egress_router.net.neighbour_watch import NeighbourWatch
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import Link
from egress_router.redirect.pair.pair import Pair
from egress_router.redirect.state import State
from egress_router.redirect.values import Check, RunConfig

#: A second announcement, a moment after the first: one may get lost (RFC 5227, 2.3).
AGAIN_SECONDS = 1.0
#: A claim stands for so long after it was last seen: longer than two rounds of asking.
CONFLICT_SECONDS = 15.0
#: Between two questions whether somebody else has our addresses.
ASK_OWN_SECONDS = 5.0
#: A standby may take them at any time.
PAIR_OWN_SECONDS = 1.0
#: Between two probes of a gateway that a standby misses.
PROBE_AGAIN_SECONDS = 30.0
CHECK_TIMEOUT_SECONDS = 2.0


class UplinkMonitor:
    """Watches the interface ``state.interface`` from ``loop``."""

    def __init__(self, run: RunConfig, state: State, loop: Loop, pair: Pair | None = None) -> None:
        self._run = run
        self._pair = pair
        self._state = state
        self._loop = loop
        self._watch: NeighbourWatch | None = None
        self._link = (0, "")
        self._sources = {source.ip for source in run.router.sources.values()}
        self._asked: set[Address] = set()
        self._checks: dict[int, socket.socket] = {}
        self._next_own = self._next_checks = 0.0
        self._next_probes: dict[Address, float] = {}
        #: Called when somebody asks for one of our addresses before taking it.
        self.asked_for: Callable[[], None] = lambda: None
        self._others_ask = False
        state.gateways = {gateway: Reachability() for gateway in run.router.gateways.values()}
        state.checks = {check: Reachability() for check in run.checks}
        if pair is not None:
            pair.ask, pair.tell = self._ask_own, self.announce

    def look_at_link(self) -> None:
        """Find out whether the link is up; when it came back, or is another one now, tell everybody again."""
        with Rtnetlink() as kernel:
            link = kernel.link(self._state.interface)
        carrier = link is not None and link.up and link.lower_up
        if link is not None and self._link != (link.index, link.mac):
            self._open(link)
            carrier_before = False
        else:
            carrier_before = self._state.carrier
        self._state.carrier = carrier
        if carrier and not carrier_before:
            if self._pair is not None:
                self._pair.holder.forget()
                self._next_own = 0.0
            self.announce()
            self._loop.call_later(AGAIN_SECONDS, self.announce)
        elif carrier_before and not carrier:
            LOGGER.warning("%s has no carrier", self._state.interface)

    def announce(self) -> None:
        """Tell everybody that we have our addresses."""
        if self._watch is not None and self._state.holding and not self._state.leaving:
            self._watch.tell(tuple(self._sources))

    def taken_over(self) -> None:
        """The addresses are ours now: the checks begin, and a second announcement follows the first."""
        self._next_checks = 0.0
        self._loop.call_later(AGAIN_SECONDS, self.announce)

    def probe(self) -> None:
        """Judge the last question to each gateway, ask again, and start the checks of destinations."""
        # An answer may be there already, if somebody held up the loop.
        self._listen()
        for address in self._asked:
            self._note_gateway(address, answer=False)
        missed = self._asked
        self._asked = set(self._state.gateways)
        if self._pair is not None:
            self._pair.gateways(missed=any(reached.up is False for reached in self._state.gateways.values()))
        self._ask(missed)
        self._check_all()

    def _check_all(self) -> None:
        """Start the checks of destinations; a standby, which has no address to ask from, knows nothing of them."""
        now = self._loop.now()
        if self._pair is not None:
            # A pair looks at its gateways more often than that.
            if now < self._next_checks:
                return
            self._next_checks = now + self._run.probe_interval
        for check in self._run.checks:
            if self._state.holding:
                self._check(check)
            else:
                self._state.checks[check] = Reachability()

    def _ask(self, missed: Collection[Address]) -> None:
        if self._watch is None:
            return
        now = self._loop.now()
        for gateway in self._state.gateways:
            # A pair asks often: only where a gateway is, while that is known.
            source = self._asks_as(gateway, missed=gateway in missed, now=now)
            self._watch.ask(gateway, source, to_all=self._pair is None or gateway in missed)
        if not self._run.router.dad or (self._state.leaving and self._others_ask):
            # (Two that ask at once take each other for the owner: a successor that waits would wait longer.)
            return
        if now >= self._next_own:
            self._next_own = now + self._own_pace()
            self._probe_own()
        elif self._pair is not None and self._pair.asks_holder:
            self._probe_own(self._pair.holder.mac)

    def _own_pace(self) -> float:
        if self._pair is None:
            return ASK_OWN_SECONDS
        return self._pair.own_pace or PAIR_OWN_SECONDS

    def _ask_own(self) -> None:
        """Hear what was answered, and ask all machines again who else has our addresses."""
        self._listen()
        self._probe_own()

    def _probe_own(self, to: str | None = None) -> None:
        if self._watch is None:
            return
        for source in self._sources:
            self._watch.probe_own(source, to)
            if self._pair is not None:
                self._pair.holder.asked(source.version)

    def _asks_as(self, gateway: Address, *, missed: bool, now: float) -> Address | None:
        """Return whose question it is; None for a standby's, which has no address.

        Over IPv4 that is a probe, as long as the gateway answers. One that does not may be starting, and about to take
        its address: in a probe of ours it would see another machine that wants it, and leave it alone (RFC 5227,
        2.1.1). So a missed one is asked in the name of the source that adverts have, and probed seldom, for it may
        answer nobody from outside of its network.
        """
        if self._state.holding:
            return next(source for source in self._sources if source.version == gateway.version)
        if self._pair is None or gateway.version == 6:
            return None
        if not missed:
            self._next_probes[gateway] = now + PROBE_AGAIN_SECONDS
        elif now < self._next_probes.setdefault(gateway, now + PROBE_AGAIN_SECONDS):
            return self._pair.adverts_from
        else:
            self._next_probes[gateway] = now + PROBE_AGAIN_SECONDS
        return None

    def close(self) -> None:
        """Stop watching."""
        self._close_watch()
        for own in self._checks.values():
            # The loop may turn on, and the next descriptor may have this number.
            self._loop.remove(own.fileno())
            own.close()
        self._checks.clear()

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._loop.remove(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _open(self, link: Link) -> None:
        index, mac = link.index, link.mac
        self._close_watch()
        self._link = (0, "")
        try:
            self._watch = NeighbourWatch(self._state.interface, index, mac, shared=link.shares_mac)
        except TryAgainError:
            # It went away since it was seen, which its own event tells.
            return
        self._link = (index, mac)
        self._watch.on_probe = self._probed
        self._loop.add_reader(self._watch.fileno(), self._listen)
        if self._pair is not None:
            self._pair.open(self._state.interface, index, mac)

    def _listen(self) -> None:
        if self._watch is None:
            return
        for heard in self._watch.heard():
            if heard.address in self._sources:
                if self._run.router.dad:
                    self._note_claim(heard)
            elif heard.address in self._asked:
                self._asked.discard(heard.address)
                self._note_gateway(heard.address, answer=True)

    def _probed(self, address: Address) -> None:
        if address in self._sources:
            self._others_ask = True
            self.asked_for()

    def _note_claim(self, claim: Claim) -> None:
        """A claim of one of a pair is none; its next advert tells who it is."""
        if self._pair is None:
            self._note_conflict(claim.address, claim.mac, claim.heard)
            return
        self._pair.claimed_by(claim.mac, claim.address.version)
        if not self._pair.is_peer(claim.mac):
            judge = partial(self._note_strangers_claim, self._pair, claim, self._loop.now())
            self._loop.call_later(self._pair.config.patience, judge)

    def _note_strangers_claim(self, pair: Pair, claim: Claim, at: float) -> None:
        if pair.is_peer(claim.mac):
            return
        if pair.wanted:
            self._note_conflict(claim.address, claim.mac, claim.heard)
        else:
            pair.claimed(
                claim.mac,
                at,
                f"{claim.mac}, {pair.no_peer}, has {claim.address} on {self._state.interface} ({claim.heard}); "
                "remove that machine, or choose another address",
                again=PAIR_OWN_SECONDS,
            )

    def _note_gateway(self, address: Address, *, answer: bool) -> None:
        reached = self._state.gateways[address]
        if reached.note(answer=answer):
            if reached.up:
                LOGGER.info("gateway %s answers", address)
            else:
                LOGGER.warning("gateway %s does not answer on %s", address, self._state.interface)

    def _note_conflict(self, source: Address, mac: str, how: str) -> None:
        now = self._loop.now()
        known, until = self._state.conflicts.get(source, ("", 0.0))
        self._state.conflicts[source] = (mac, now + CONFLICT_SECONDS)
        self._state.conflicts_seen += 1
        if known != mac or now >= until:
            LOGGER.error(
                "%s claims %s, which is ours, on %s (%s): two machines with one address break each other; remove the "
                "other one (an old router pod?)",
                mac,
                source,
                self._state.interface,
                how,
            )

    def _check(self, check: Check) -> None:
        """Find out whether a destination accepts connections from our address, within CHECK_TIMEOUT_SECONDS."""
        version = check.address.version
        source = next(item for item in self._sources if item.version == version)
        own = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        own.setblocking(False)
        descriptor = own.fileno()

        def finish(answer: bool) -> None:
            if self._checks.pop(descriptor, None) is not None:
                timer.cancel()
                self._loop.remove(descriptor)
                own.close()
                self._note_check(check, answer=answer)

        self._checks[descriptor] = own
        timer = self._loop.call_later(CHECK_TIMEOUT_SECONDS, lambda: finish(False))
        code = errno.EADDRNOTAVAIL
        with suppress(OSError):
            own.bind((str(source), 0))
            code = own.connect_ex((str(check.address), check.port))
        if code != errno.EINPROGRESS:
            finish(code == 0)
            return
        self._loop.add_writer(descriptor, lambda: finish(own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0))

    def _note_check(self, check: Check, *, answer: bool) -> None:
        reached = self._state.checks[check]
        if reached.note(answer=answer):
            if reached.up:
                LOGGER.info("%s accepts connections", check)
            else:
                LOGGER.warning("%s does not accept connections", check)
