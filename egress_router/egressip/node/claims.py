"""Egress IPs on the node's outside interface: checked before they are claimed, put there, announced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import ip_address, ip_interface

from egress_router.config.values import Address
from egress_router.egressip.node.state import NODE_PROTOCOL
from egress_router.errors import AddressInUse, EgressRouterError, TryAgainError
from egress_router.net.arp_nd import HURRIED, USUAL, Neighbours, Pace
from egress_router.net.rtnetlink.kernel import RouteNetlink, Rtnetlink
from egress_router.net.rtnetlink.values import Link, LinkAddress

# Egress IPs on the node's outside interface. See ip-address(8).

#: Interface names and labels have at most this many characters.
_MAX_NAME = 15


def add_egress_ip(kernel: RouteNetlink, link: Link, text: str) -> None:
    """Put an address on the interface as a host address, deprecated from the start: so the node never chooses it as the
    source of its own connections (RFC 6724, rule 3), and neither does masquerading.
    """
    kernel.add_address(link, _entry(link, text), replace=True)


def egress_ips(kernel: RouteNetlink, link: Link) -> frozenset[str]:
    """Return the addresses on the interface that an agent has put there, whatever became of its tables: by their label
    (IPv4), or by their protocol number, which kernels keep since Linux 5.18.
    """
    return frozenset(
        str(item.address.ip)
        for item in kernel.addresses(link)
        if item.label == _label(link) or item.protocol == NODE_PROTOCOL
    )


def remove_egress_ip(kernel: RouteNetlink, link: Link, text: str) -> None:
    """Take an address off the interface; one that is gone already is fine."""
    kernel.remove_address(link, LinkAddress(link.name, ip_interface(text)))


def _entry(link: Link, text: str) -> LinkAddress:
    address = ip_interface(text)
    label = _label(link) if address.version == 4 else ""
    return LinkAddress(link.name, address, label=label, protocol=NODE_PROTOCOL, preferred=False)


def _label(link: Link) -> str:
    return f"{link.name}:egress"[:_MAX_NAME]


# Check egress IPs before they are claimed, and announce them; in threads, because both take their time.

#: Announcements of a new address, and the seconds between them: a neighbour may miss the first.
ANNOUNCEMENTS = 5
ANNOUNCE_EVERY = 1.0


class Claimer:
    """Checks addresses, one after the other so that a conflict on one does not hold up the others."""

    def __init__(
        self, link: Link, done: Callable[[Mapping[str, str]], None], start: Callable[..., object], *, dad: bool = True
    ) -> None:
        """``done`` is called from the thread with the reason why each address is refused (empty: it is free).
        ``start`` does work in a thread, see Threads.task. Without ``dad`` every address is taken to be free.
        """
        self._dad = dad
        self._link = link
        self._done = done
        self._start = start
        self._busy: set[str] = set()
        #: What may be announced now: an address that was given away must not be called back.
        self.answered: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def check(self, texts: Iterable[str], hurried: Collection[str] = ()) -> None:
        """Start checking the addresses that are not being checked already; the ``hurried`` ones at that pace, and who
        takes one of them looks again.
        """
        with self._lock:
            fresh = set(texts) - self._busy
            self._busy.update(fresh)
        for pace, some in ((USUAL, sorted(fresh - set(hurried))), (HURRIED, sorted(fresh & set(hurried)))):
            if some:
                self._start("duplicate check", partial(self._check, some, pace))

    def _check(self, texts: list[str], pace: Pace) -> None:
        # Whatever goes wrong, an address is asked for again later.
        reasons = dict.fromkeys(texts, "the check failed")
        try:
            reasons = self._reasons(texts, pace)
        finally:
            with self._lock:
                self._busy.difference_update(texts)
            # All at once: an agent that acts on the first would have the others checked again.
            self._done(reasons)

    def look_again(self, texts: Collection[str]) -> None:
        """Ask at the usual pace about what was taken in a hurry; who answers then, and once more, has it."""
        if texts:
            self._start("duplicate check", partial(self._look_again, sorted(texts)))

    def _look_again(self, texts: list[str]) -> None:
        try:
            self._probe(texts, USUAL)
        except AddressInUse:
            # A holder that was not dead, only silent for a moment, hears at the same time that it is to let go: giving
            # the address up then would leave it to nobody, and end all its connections.
            self._look_once_more(texts)
        except (EgressRouterError, OSError):
            # Nobody can be asked now; that was no answer.
            return

    def _look_once_more(self, texts: list[str]) -> None:
        try:
            self._probe(texts, USUAL, hasty=True)
        except (EgressRouterError, OSError) as error:
            if len(texts) == 1:
                self._done({texts[0]: _first_sentence(error)})
            else:
                for text in texts:
                    self._look_once_more([text])

    def _reasons(self, texts: list[str], pace: Pace) -> dict[str, str]:
        """All at once first; only if that fails one by one, to tell which."""
        try:
            self._probe(texts, pace)
        except (EgressRouterError, OSError) as error:
            if len(texts) == 1:
                return {texts[0]: _first_sentence(error)}
            reasons: dict[str, str] = {}
            for text in texts:
                reasons |= self._reasons([text], pace)
            return reasons
        return dict.fromkeys(texts, "")

    def _probe(self, texts: list[str], pace: Pace, *, hasty: bool = False) -> None:
        if not self._dad:
            return
        gateways = _default_gateways(self._link)
        if pace is HURRIED:
            _resolve(self._link, gateways)
        neighbours = Neighbours(self._link.name, self._link.index, self._link.mac)
        try:
            neighbours.check_duplicates(map(ip_address, texts), gateways, pace, hasty=hasty)
        finally:
            neighbours.close()

    def announce(self, texts: Iterable[str]) -> None:
        """Tell everybody on the link that the addresses are here, several times."""
        wanted = sorted(texts)
        if wanted:
            self._start("announcements", lambda: self._announce(wanted))

    def _announce(self, texts: list[str]) -> None:
        for number in range(ANNOUNCEMENTS):
            if number:
                time.sleep(ANNOUNCE_EVERY)
            # The link may be down for a moment; the next announcement may find it up.
            with suppress(TryAgainError, OSError):
                self._announce_once([text for text in texts if text in self.answered])

    def _announce_once(self, texts: list[str]) -> None:
        neighbours = Neighbours(self._link.name, self._link.index, self._link.mac)
        try:
            neighbours.announce(map(ip_address, texts))
        finally:
            neighbours.close()


def _default_gateways(link: Link) -> list[Address]:
    """Return the next hops of the default routes of an interface: routers, which may answer for others (proxy ARP)."""
    with Rtnetlink() as kernel:
        routes = kernel.default_routes()
    return [route.gateway for route in routes if route.interface == link.name and route.gateway is not None]


def _resolve(link: Link, gateways: Iterable[Address]) -> None:
    """Have the kernel know them before it has the address that is asked about: by asking from that it would announce
    it.
    """
    with Rtnetlink() as kernel:
        for gateway in gateways:
            # Whether it answers is another question.
            with suppress(EgressRouterError):
                kernel.resolve(link, gateway)


def _first_sentence(error: EgressRouterError | OSError) -> str:
    if isinstance(error, OSError):
        return f"nobody can be asked whether it is free: {error.strerror}"
    return str(error).split(". ")[0] if isinstance(error, AddressInUse) else str(error)
