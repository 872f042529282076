"""Egress IPs on the node's outside interface: checked before they are claimed, put there, announced."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address

from egress_router.egressip.node.state import NODE_PROTOCOL
from egress_router.errors import AddressInUse, EgressRouterError, TryAgainError
from egress_router.net.arp_nd import Neighbours
from egress_router.net.netlink import NLM_F_CREATE, NLM_F_REPLACE, Netlink, NetlinkError, ifaddrmsg
from egress_router.net.rtnetlink.links import RTM_DELADDR, RTM_NEWADDR
from egress_router.net.rtnetlink.read import RTM_GETADDR
from egress_router.net.rtnetlink.values import Link

# Egress IPs on the node's outside interface. See ip-address(8).

#: Interface names and labels have at most this many characters.
_MAX_NAME = 15
_IFA_F_NODAD = 0x02
_FOREVER = 0xFFFFFFFF


def add_egress_ip(netlink: Netlink, link: Link, text: str) -> None:
    """Put an address on the interface as a host address, deprecated from the start: so the node never chooses it as the
    source of its own connections (RFC 6724, rule 3), and neither does masquerading.
    """
    request = _request(link, text)
    request["flags"] = _IFA_F_NODAD if ":" in text else 0
    if ":" not in text:
        request["attrs"].append(("IFA_LABEL", _label(link)))
    request["attrs"].append(("IFA_PROTO", NODE_PROTOCOL))
    request["attrs"].append(("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": _FOREVER, "cstamp": 0, "tstamp": 0}))
    netlink.change(request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, f"add {text} to {link.name}")


def egress_ips(netlink: Netlink, link: Link) -> frozenset[str]:
    """Return the addresses on the interface that an agent has put there, whatever became of its tables: by their label
    (IPv4), or by their protocol number, which kernels keep since Linux 5.18.
    """
    found = set()
    for message in netlink.dump(ifaddrmsg(), RTM_GETADDR, "list the addresses"):
        ours = message.get_attr("IFA_LABEL") == _label(link) or message.get_attr("IFA_PROTO") == NODE_PROTOCOL
        if message["index"] == link.index and ours:
            found.add(str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")))
    return frozenset(found)


def _label(link: Link) -> str:
    return f"{link.name}:egress"[:_MAX_NAME]


def remove_egress_ip(netlink: Netlink, link: Link, text: str) -> None:
    """Take an address off the interface; one that is gone already is fine."""
    try:
        netlink.change(_request(link, text), RTM_DELADDR, 0, f"remove {text} from {link.name}")
    except NetlinkError as error:
        if error.code != errno.EADDRNOTAVAIL:
            raise


def _request(link: Link, text: str) -> ifaddrmsg:
    request = ifaddrmsg()
    request["family"] = socket.AF_INET6 if ":" in text else socket.AF_INET
    request["index"] = link.index
    request["prefixlen"] = 128 if ":" in text else 32
    request["attrs"] = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
    return request


# Check egress IPs before they are claimed, and announce them; in threads, because both take their time.

#: Announcements of a new address, and the seconds between them: a neighbour may miss the first.
ANNOUNCEMENTS = 5
ANNOUNCE_EVERY = 1.0


class Claimer:
    """Checks addresses, one after the other so that a conflict on one does not hold up the others."""

    def __init__(self, link: Link, done: Callable[[str, str], None]) -> None:
        """``done`` is called from the thread with the address and the reason why it is refused (empty: it is free)."""
        self._link = link
        self._done = done
        self._busy: set[str] = set()
        #: What may be announced now: an address that was given away must not be called back.
        self.answered: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def check(self, texts: Iterable[str]) -> None:
        """Start checking the addresses that are not being checked already."""
        with self._lock:
            fresh = sorted(set(texts) - self._busy)
            self._busy.update(fresh)
        if fresh:
            threading.Thread(target=self._check, args=(fresh,), name="claim", daemon=True).start()

    def _check(self, texts: list[str]) -> None:
        # Whatever goes wrong, an address is asked for again later.
        reasons = dict.fromkeys(texts, "the check failed")
        try:
            reasons = self._reasons(texts)
        finally:
            with self._lock:
                self._busy.difference_update(texts)
            for text in texts:
                self._done(text, reasons[text])

    def _reasons(self, texts: list[str]) -> dict[str, str]:
        """All at once first; only if that fails one by one, to tell which."""
        try:
            self._probe(texts)
        except (EgressRouterError, OSError) as error:
            if len(texts) == 1:
                return {texts[0]: _first_sentence(error)}
            reasons: dict[str, str] = {}
            for text in texts:
                reasons |= self._reasons([text])
            return reasons
        return dict.fromkeys(texts, "")

    def _probe(self, texts: list[str]) -> None:
        neighbours = Neighbours(self._link.name, self._link.index, self._link.mac)
        try:
            neighbours.check_duplicates(map(ip_address, texts))
        finally:
            neighbours.close()

    def announce(self, texts: Iterable[str]) -> None:
        """Tell everybody on the link that the addresses are here, several times."""
        wanted = sorted(texts)
        if wanted:
            threading.Thread(target=self._announce, args=(wanted,), name="announce", daemon=True).start()

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


def _first_sentence(error: EgressRouterError | OSError) -> str:
    if isinstance(error, OSError):
        return f"nobody can be asked whether it is free: {error.strerror}"
    return str(error).split(". ")[0] if isinstance(error, AddressInUse) else str(error)
