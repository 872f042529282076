"""Check egress IPs before they are claimed, and announce them; in threads, because both take their time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from egress_router.errors import AddressInUse, EgressRouterError, TryAgainError
from egress_router.kernel.neighbours import Neighbours
from egress_router.model.network import Link

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
        reasons = self._reasons(texts)
        with self._lock:
            self._busy.difference_update(texts)
        for text in texts:
            self._done(text, reasons[text])

    def _reasons(self, texts: list[str]) -> dict[str, str]:
        """All at once first; only if that fails one by one, to tell which."""
        try:
            self._probe(texts)
        except EgressRouterError as error:
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
        neighbours = Neighbours(self._link.name, self._link.index, self._link.mac)
        try:
            for number in range(ANNOUNCEMENTS):
                if number:
                    time.sleep(ANNOUNCE_EVERY)
                try:
                    neighbours.announce(ip_address(text) for text in texts if text in self.answered)
                except TryAgainError:
                    # The link is down for a moment; the next announcement may find it up.
                    continue
        finally:
            neighbours.close()


def _first_sentence(error: EgressRouterError) -> str:
    return str(error).split(". ")[0] if isinstance(error, AddressInUse) else str(error)
